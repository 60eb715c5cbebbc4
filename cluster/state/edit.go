package state

import (
	"slices"
	"strings"
)

// Limits of one edit.
const (
	MaxRecord = 4096  // bytes of a record
	MaxHolds  = 16384 // additional blobs that one link holds
	MaxClaims = 4096  // claims of one name
)

// Op is one edit of a command. The set is closed: unknown kinds in the log are fatal.
type Op interface {
	kind() opKind
	check() error // checks that need no state, and that the edit can be encoded
	apply(*tx) error
}

// staging is an Op that is allowed in a stage.
type staging interface {
	Op
	keeps(fn func(Digest)) // the blobs that the edit needs while it is staged
}

// Put writes a record of at most MaxRecord bytes.
type Put struct {
	_     struct{} `cbor:",toarray"`
	Name  string
	Data  []byte
	Claim string // "" for none
}

// Link makes Name a file whose bytes are the blob Digest. It keeps that blob and those in Holds.
type Link struct {
	_      struct{} `cbor:",toarray"`
	Name   string
	Digest Digest
	Holds  []Digest
	Claim  string
}

// LinkWeak makes Name a file as Link does, but keeps the blob only until its pin ends, which it extends to Until (Unix
// nanoseconds). Once the blob is collected the name is gone, and does not come back with the bytes.
type LinkWeak struct {
	_      struct{} `cbor:",toarray"`
	Name   string
	Digest Digest
	Until  int64
	Claim  string
}

// Remove removes the file with all of its claims, or the directory with everything below it ("." is the whole tree). It
// is no error if there is none.
type Remove struct {
	_    struct{} `cbor:",toarray"`
	Name string
}

// Expect refuses the command unless Name was at Version before the command; 0 means that there was no such file.
// Regardless of its position in the command, or in a stage that the command publishes, it refers to the state that the
// proposer may have seen.
type Expect struct {
	_       struct{} `cbor:",toarray"`
	Name    string
	Version uint64
}

func checkName(op, name string) error {
	if !validName(name) {
		return refuse(CodeInvalid, op, name, "a name is a slash-separated path without . or .. of at most %d bytes, "+
			"%d an element", MaxName, MaxElement)
	}
	return nil
}

func checkClaim(op, name, claim string) error {
	if claim != "" && !ValidID(claim) {
		return refuse(CodeInvalid, op, name, "a claim has 1 to %d bytes and no control characters, got %q", MaxID,
			short(claim))
	}
	return nil
}

func checkDigest(op string, d Digest) error {
	if !d.valid() {
		return refuse(CodeInvalid, op, d.String(), "a digest is a sha256 or a sha512")
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *Put) check() error {
	if len(o.Data) > MaxRecord {
		return refuse(CodeInvalid, "put", o.Name, "a record has at most %d bytes, got %d", MaxRecord, len(o.Data))
	}
	return firstError(checkName("put", o.Name), checkClaim("put", o.Name, o.Claim))
}

func (o *Link) check() error {
	if len(o.Holds) > MaxHolds {
		return refuse(CodeInvalid, "link", o.Name, "a link holds at most %d blobs, got %d", MaxHolds, len(o.Holds))
	}
	for _, d := range o.Holds {
		if err := checkDigest("link", d); err != nil {
			return err
		}
	}
	return firstError(checkName("link", o.Name), checkDigest("link", o.Digest), checkClaim("link", o.Name, o.Claim))
}

func (o *LinkWeak) check() error {
	return firstError(checkName("link", o.Name), checkDigest("link", o.Digest), checkClaim("link", o.Name, o.Claim))
}

func (o *Remove) check() error {
	if o.Name == "." {
		return nil
	}
	return checkName("remove", o.Name)
}

func (o *Expect) check() error {
	if o.Name == "." {
		return nil
	}
	return checkName("expect", o.Name)
}

func (o *Put) keeps(func(Digest)) {}
func (o *Link) keeps(fn func(Digest)) {
	fn(o.Digest)
	for _, d := range o.Holds {
		fn(d)
	}
}
func (o *LinkWeak) keeps(fn func(Digest)) { fn(o.Digest) }
func (o *Remove) keeps(func(Digest))      {}
func (o *Expect) keeps(func(Digest))      {}

func (o *Put) apply(tx *tx) error {
	return tx.place("put", o.Name, &node{kind: record, body: string(o.Data), claim: o.Claim})
}

func (o *Link) apply(tx *tx) error {
	if _, err := tx.known("link", o.Name, o.Digest); err != nil {
		return err
	}
	holds := slices.Clone(o.Holds)
	slices.Sort(holds)
	var list strings.Builder
	for i, d := range holds {
		if d == o.Digest || i > 0 && d == holds[i-1] {
			continue
		}
		if _, err := tx.known("link", o.Name, d); err != nil {
			return err
		}
		list.WriteString(string(d))
	}
	return tx.place("link", o.Name, &node{kind: strong, body: string(o.Digest), holds: digests(list.String()),
		claim: o.Claim})
}

func (o *LinkWeak) apply(tx *tx) error {
	b, err := tx.known("link", o.Name, o.Digest)
	if err != nil {
		return err
	}
	tx.pin(o.Digest, b, o.Until)
	return tx.place("link", o.Name, &node{kind: weak, body: string(o.Digest), born: b.born, claim: o.Claim})
}

func (o *Remove) apply(tx *tx) error {
	seen := false
	var keys []string
	collect := func(k string, n *node) {
		keys = append(keys, k)
		seen = seen || tx.s.visible(n) != nil
	}
	if o.Name != "." {
		k := keyOf(o.Name)
		if n, ok := tx.s.names.get(k); ok {
			collect(k, n)
		}
	}
	if len(keys) == 0 { // a file has nothing below it
		prefix := belowKey(o.Name)
		tx.s.names.from(prefix, func(k string, n *node) bool {
			if !strings.HasPrefix(k, prefix) {
				return false
			}
			collect(k, n)
			return true
		})
	}
	for _, k := range keys {
		tx.drop(k)
	}
	if seen {
		tx.changed(o.Name)
	}
	return nil
}

// apply does nothing: expectations are checked before the first edit.
func (o *Expect) apply(*tx) error { return nil }

func (o *Expect) hold(s *State) error {
	var got uint64
	if e, ok := s.Get(o.Name); ok {
		got = e.Version
	}
	if got != o.Version {
		return refuse(CodeVersion, "expect", o.Name, "it is at version %d, not %d", got, o.Version)
	}
	return nil
}

// known returns the blob of a link.
func (tx *tx) known(op, name string, d Digest) (blob, error) {
	b, ok := tx.s.blobs.get(d)
	if !ok {
		return blob{}, refuse(CodeNoBlob, op, name, "blob %s is not known", d)
	}
	return b, nil
}

// place puts n in front of the claims of name, and removes the previous node of its claim.
func (tx *tx) place(op, name string, n *node) error {
	s, key := tx.s, keyOf(name)
	at := s.names.look(key)
	old := s.names.value(at)
	if !at.found {
		swept, err := tx.clearWay(op, name, at)
		if err != nil {
			return err
		}
		if swept {
			at = s.names.look(key)
		}
	}
	n.version, n.mod = tx.index, tx.time
	rest, gone := without(old, n.claim)
	if err := tx.claims(op, name, n, gone); err != nil {
		return err
	}
	n.older = rest
	depth := 0
	for c := n; c != nil; c = c.older {
		depth++
	}
	if depth > MaxClaims {
		return refuse(CodeLimit, op, name, "a name has at most %d claims: remove old imports", MaxClaims)
	}
	tx.retain(n)
	if gone != nil {
		tx.release(gone)
	}
	s.names.put(at, n)
	if !at.found {
		tx.result.Appeared = append(tx.result.Appeared, name)
	}
	tx.changed(name)
	return nil
}

// clearWay makes sure that a key that is not in the table may become a file: none of its directories is a file, and
// nothing is below it. Stale weak links in the way are swept, since they are invisible.
//
// It maintains the table's rule that no key is below another, including stale ones, so one look-up next to the key
// covers all its directories.
func (tx *tx) clearWay(op, name string, at look) (swept bool, err error) {
	s, key := tx.s, at.key
	before, behind := at.beside()
	if dir, ok := parentKey(key); ok {
		settled := max(before, behind) > len(dir) // the directory has another entry already
		if !settled && min(before, behind) < 0 {
			s.names.from(dir+"\x00", func(k string, _ *node) bool {
				settled = strings.HasPrefix(k, dir+"\x00")
				return false
			})
		}
		for ; ok && !settled; dir, ok = parentKey(dir) {
			n, there := s.names.get(dir)
			if !there {
				continue
			}
			if s.visible(n) != nil {
				return swept, refuse(CodeConflict, op, name, "%s is a file", short(nameOf(dir)))
			}
			tx.drop(dir)
			swept = true
		}
	}
	if behind >= 0 && behind < len(key) {
		return swept, nil
	}
	prefix, blocked := key+"\x00", false
	var stale []string
	s.names.from(prefix, func(k string, n *node) bool {
		if !strings.HasPrefix(k, prefix) {
			return false
		}
		stale = append(stale, k)
		blocked = s.visible(n) != nil
		return !blocked
	})
	if blocked {
		return swept, refuse(CodeConflict, op, name, "it is a directory")
	}
	for _, k := range stale {
		tx.drop(k)
		swept = true
	}
	return swept, nil
}

// drop removes the key with all of its claims.
func (tx *tx) drop(key string) {
	n, _ := tx.s.names.get(key)
	for c := n; c != nil; c = c.older {
		tx.release(c)
	}
	tx.forget(key)
}
