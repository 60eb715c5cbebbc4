package state

import "encoding/binary"

// The most frequent records and edits are encoded and decoded here by hand, because decoding by reflection would take
// most of the time of a start. This is an optimization and not a second format: the output equals encMode's byte for
// byte, and input is decoded as decMode does. Input in any other form than encMode's sets odd, and decMode decodes it.
// Tests check both.

const (
	cborUint   = 0
	cborMinus  = 1
	cborString = 2
	cborArray  = 4

	cborNull = 0xf6 // a nil slice
)

func appendHead(b []byte, major byte, v uint64) []byte {
	major <<= 5
	switch {
	case v < 24:
		return append(b, major|byte(v))
	case v < 1<<8:
		return append(b, major|24, byte(v))
	case v < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(v))
	case v < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), v)
}

func appendUint(b []byte, v uint64) []byte { return appendHead(b, cborUint, v) }

func appendInt(b []byte, v int64) []byte {
	if v < 0 {
		return appendHead(b, cborMinus, uint64(-(v + 1)))
	}
	return appendHead(b, cborUint, uint64(v))
}

func appendString[S ~string](b []byte, s S) []byte {
	return append(appendHead(b, cborString, uint64(len(s))), s...)
}

func (r *snapBlob) append(b []byte) []byte {
	b = appendHead(b, cborArray, 4)
	b = appendString(b, r.Digest)
	b = appendInt(b, r.Size)
	b = appendUint(b, r.Born)
	return appendInt(b, r.Pin)
}

func (r *snapNode) append(b []byte) []byte {
	b = appendHead(b, cborArray, 9)
	b = appendUint(b, r.Shared)
	b = appendString(b, r.Rest)
	b = appendUint(b, uint64(r.Kind))
	b = appendUint(b, r.Version)
	b = appendInt(b, r.Mod)
	b = appendString(b, r.Body)
	b = appendString(b, r.Holds)
	b = appendString(b, r.Claim)
	return appendUint(b, r.Born)
}

// scan decodes the output of the functions above. Once odd is set, its results are meaningless.
type scan struct {
	p     []byte
	whole string // if set, p is the end of it, and texts share its bytes instead of being copied
	odd   bool
}

func (s *scan) head(major byte) uint64 {
	if s.odd || len(s.p) == 0 || s.p[0]>>5 != major {
		s.odd = true
		return 0
	}
	low := s.p[0] & 31
	s.p = s.p[1:]
	if low < 24 {
		return uint64(low)
	}
	n := 1 << (low - 24)
	if low > 27 || len(s.p) < n {
		s.odd = true
		return 0
	}
	v := uint64(0)
	for _, c := range s.p[:n] {
		v = v<<8 | uint64(c)
	}
	s.p = s.p[n:]
	// The value is not in its shortest form if the next shorter form could hold it.
	s.odd = low == 24 && v < 24 || low > 24 && v>>(4*n) == 0
	return v
}

func (s *scan) array(n uint64) {
	if s.head(cborArray) != n {
		s.odd = true
	}
}

func (s *scan) uint() uint64 { return s.head(cborUint) }

func (s *scan) int() int64 {
	major := byte(cborUint)
	if len(s.p) > 0 && s.p[0]>>5 == cborMinus {
		major = cborMinus
	}
	v := int64(s.head(major))
	if v < 0 {
		s.odd = true
	}
	if major == cborMinus {
		return -v - 1
	}
	return v
}

// bytes returns a slice of the input, not a copy.
func (s *scan) bytes() []byte {
	n := s.head(cborString)
	if s.odd || n > uint64(len(s.p)) {
		s.odd = true
		return nil
	}
	text := s.p[:n]
	s.p = s.p[n:]
	return text
}

func (s *scan) text() string {
	text := s.bytes()
	if end := len(s.whole) - len(s.p); s.whole != "" {
		return s.whole[end-len(text) : end]
	}
	return string(text)
}

// null reads a nil slice, if there is one.
func (s *scan) null() bool {
	if s.odd || len(s.p) == 0 || s.p[0] != cborNull {
		return false
	}
	s.p = s.p[1:]
	return true
}

func (s *scan) digests() []Digest {
	if s.null() {
		return nil
	}
	n := s.head(cborArray)
	if s.odd || n > MaxHolds || n > uint64(len(s.p)) {
		s.odd = true
		return nil
	}
	list := make([]Digest, 0, n)
	for range n {
		list = append(list, Digest(s.text()))
	}
	return list
}

func (r *snapBlob) scan(s *scan) {
	s.array(4)
	r.Digest, r.Size, r.Born, r.Pin = Digest(s.text()), s.int(), s.uint(), s.int()
}

// scan lets the record share the claim's bytes with the previous record: many names have the same claim.
func (r *snapNode) scan(s *scan) {
	s.array(9)
	r.Shared, r.Rest = s.uint(), s.text()
	kind := s.uint()
	if kind > 255 {
		s.odd = true
	}
	r.Kind, r.Version, r.Mod = uint8(kind), s.uint(), s.int()
	r.Body, r.Holds = s.text(), s.text()
	if claim := s.bytes(); string(claim) != r.Claim {
		r.Claim = string(claim)
	}
	r.Born = s.uint()
}

func (h *header) scan(s *scan) {
	s.array(6)
	h.Node, h.Boot, h.Seq, h.Finished, h.Time, h.Ops = s.text(), s.uint(), s.uint(), s.uint(), s.int(), s.uint()
}

// scanOp decodes a kind and its edit, for the kinds that imports and pushes use. All of them are of format 1.
func scanOp(s *scan) Op {
	switch opKind(s.uint()) {
	case kindPut:
		s.array(3)
		o := &Put{Name: s.text()}
		if !s.null() {
			o.Data = append([]byte{}, s.bytes()...)
		}
		o.Claim = s.text()
		return o
	case kindLink:
		s.array(4)
		return &Link{Name: s.text(), Digest: Digest(s.text()), Holds: s.digests(), Claim: s.text()}
	case kindLinkWeak:
		s.array(4)
		return &LinkWeak{Name: s.text(), Digest: Digest(s.text()), Until: s.int(), Claim: s.text()}
	case kindRemove:
		s.array(1)
		return &Remove{Name: s.text()}
	case kindExpect:
		s.array(2)
		return &Expect{Name: s.text(), Version: s.uint()}
	case kindAddBlob:
		s.array(4)
		return &AddBlob{Digest: Digest(s.text()), Size: s.int(), Confirmed: s.uint(), Until: s.int()}
	}
	s.odd = true
	return nil
}

// appendOp returns nil for an edit that encMode must encode.
func appendOp(b []byte, op Op) []byte {
	head := func(fields uint64) { b = appendHead(appendUint(b, uint64(op.kind())), cborArray, fields) }
	switch o := op.(type) {
	case *Put:
		head(3)
		b = appendString(b, o.Name)
		if o.Data == nil {
			b = append(b, cborNull)
		} else {
			b = append(appendHead(b, cborString, uint64(len(o.Data))), o.Data...)
		}
		return appendString(b, o.Claim)
	case *Link:
		head(4)
		b = appendString(appendString(b, o.Name), o.Digest)
		if o.Holds == nil {
			b = append(b, cborNull)
		} else {
			b = appendHead(b, cborArray, uint64(len(o.Holds)))
		}
		for _, d := range o.Holds {
			b = appendString(b, d)
		}
		return appendString(b, o.Claim)
	case *LinkWeak:
		head(4)
		b = appendString(appendString(b, o.Name), o.Digest)
		return appendString(appendInt(b, o.Until), o.Claim)
	case *Remove:
		head(1)
		return appendString(b, o.Name)
	case *Expect:
		head(2)
		return appendUint(appendString(b, o.Name), o.Version)
	case *AddBlob:
		head(4)
		b = appendInt(appendString(b, o.Digest), o.Size)
		return appendInt(appendUint(b, o.Confirmed), o.Until)
	}
	return nil
}
