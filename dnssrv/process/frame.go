package process

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"casemate/dnssrv"
)

// A frame is its length (4 bytes, big endian, without the length and the kind), its kind (1 byte), and JSON. Both ends
// begin with a hello. Unknown kinds and unknown fields are skipped: the two ends may have different versions for a
// while.
type kind byte

const (
	kindHello kind = 1 // both: hello

	// Sent by the daemon.
	kindUpdate kind = 2 // part
	kindBeat   kind = 3 // beat
	kindStop   kind = 4 // nothing: stop, and do not restart
	kindAsk    kind = 5 // uint64: send statistics with this number
	kindQuery  kind = 6 // query

	// Sent by the process.
	kindApplied kind = 16 // applied
	kindMisses  kind = 17 // []miss
	kindStats   kind = 18 // stats
	kindWant    kind = 19 // nothing: send everything again, with Reset
	kindNoise   kind = 20 // []miss that indicate nothing missing
	kindSeen    kind = 21 // []sighting
	kindReply   kind = 22 // reply
)

// protocol is incremented when two versions would misunderstand each other.
const protocol = 1

// Bounds on what one end accepts from the other.
const (
	maxFrame     = 4 << 20   // of an update
	maxReport    = 1 << 20   // of everything that the process sends
	maxOwners    = 4_000_000 // names of one update
	maxOrigins   = 1_000_000 // of one update
	maxMisses    = 256       // of one frame
	maxSeen      = 1024      // of one frame
	maxMissName  = 1024
	maxSentence  = 4096
	maxSentences = 100
	maxAddrs     = 64
)

// partSize is the approximate number of bytes of records in one part.
const partSize = 64 << 10

type hello struct {
	Protocol int              `json:"protocol"`
	Version  string           `json:"version"`
	Addrs    []netip.AddrPort `json:"addrs,omitempty"`   // the addresses that the process answers on
	Queries  bool             `json:"queries,omitempty"` // the process replies to queries
}

type beat struct {
	Level *int `json:"level,omitempty"` // a slog level
}

// part is a piece of an update. The Origins and Records of all parts together are those of the update.
type part struct {
	Seq     uint64                     `json:"seq"`
	Reset   bool                       `json:"reset,omitempty"`
	Base    *dnssrv.Base               `json:"base,omitempty"`
	Nodes   []dnssrv.Node              `json:"nodes"`
	Origins []string                   `json:"origins"`
	Records map[string][]dnssrv.Record `json:"records,omitempty"`
	Last    bool                       `json:"last,omitempty"`
	// More is dnssrv.Update's. Continues means that the previous update had More set: if that one was refused, so is
	// this one.
	More      bool `json:"more,omitempty"`
	Continues bool `json:"continues,omitempty"`
}

type applied struct {
	Seq       uint64   `json:"seq"`
	Conflicts []string `json:"conflicts,omitempty"`
	More      int      `json:"more,omitempty"` // conflicts beyond maxSentences
	Error     string   `json:"error,omitempty"`
}

type miss struct {
	Client netip.Addr `json:"c"`
	Name   string     `json:"n"`
	Type   string     `json:"t"`
}

// sighting is a dnssrv.Sighting.
type sighting struct {
	Client  netip.Addr     `json:"c"`
	Name    string         `json:"n"`
	Verdict dnssrv.Verdict `json:"v"`
	Count   uint64         `json:"k"`
}

type stats struct {
	Ask   uint64       `json:"ask,omitempty"` // the request that this answers; 0: sent unasked
	Stats dnssrv.Stats `json:"stats"`
}

// errBroken wraps every violation of the protocol by the other end.
var errBroken = errors.New("the other end breaks the protocol")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errBroken, fmt.Sprintf(format, args...))
}

// encode makes a frame.
func encode(k kind, v any) ([]byte, error) {
	b := []byte{0, 0, 0, 0, byte(k)}
	if v != nil {
		data, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		b = append(b, data...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-5))
	return b, nil
}

// decode reads a frame's body, and checks that it contains v only.
func decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return broken("%v", err)
	}
	return nil
}

// readFrame reads one frame with a body of at most most bytes. The caller owns the body.
func readFrame(r *bufio.Reader, most int) (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > uint32(most) {
		return 0, nil, broken("a frame has at most %d bytes, got %d", most, n)
	}
	// The length is only a claim until the bytes have arrived.
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && uint32(len(body)) < n {
		err = io.ErrUnexpectedEOF
	}
	return kind(head[4]), body, err
}

// beatEvery is the interval at which each end sends a beat.
const beatEvery = time.Second

// errQuiet ends a connection whose other end has gone silent.
var errQuiet = errors.New("it has said nothing for too long")

// quietReader reads from conn and fails after most silent beats in a row; 0: never. It counts beats rather than time: a
// process that was stopped itself then finds what has arrived meanwhile.
type quietReader struct {
	conn net.Conn
	most int
}

func (q quietReader) Read(p []byte) (int, error) {
	for silent := 0; ; {
		if q.most > 0 {
			q.conn.SetReadDeadline(time.Now().Add(beatEvery))
		}
		n, err := q.conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || q.most == 0 {
			return n, err
		}
		if silent++; silent >= q.most {
			return 0, errQuiet
		}
	}
}

// split divides an update into parts, one after the other, so that at most one part is in memory twice.
func split(seq uint64, u dnssrv.Update, continues bool, yield func(part) error) error {
	p := part{Seq: seq, More: u.More, Continues: continues, Reset: u.Reset, Base: u.Base, Nodes: u.Nodes,
		Origins: u.Origins}
	next := func() error {
		err := yield(p)
		p = part{Seq: seq}
		return err
	}
	for origins := u.Origins; ; {
		size, n := 0, 0
		for n < len(origins) && size < partSize {
			size += len(origins[n])
			n++
		}
		p.Origins = origins[:n]
		if origins = origins[n:]; len(origins) == 0 {
			break
		}
		if err := next(); err != nil {
			return err
		}
	}
	size := 0
	for owner, list := range u.Records {
		if size >= partSize {
			if err := next(); err != nil {
				return err
			}
			size = 0
		}
		if p.Records == nil {
			p.Records = make(map[string][]dnssrv.Record)
		}
		p.Records[owner] = list
		size += len(owner)
		for _, r := range list {
			size += 40 + len(r.Name)
			for _, v := range r.Values {
				size += len(v)
			}
		}
	}
	p.Last = true
	return next()
}

// joiner assembles an update from its parts.
type joiner struct {
	begun bool
	seq   uint64
	u     dnssrv.Update
}

// add adds a part; with the last one, it returns the update.
func (j *joiner) add(p part) (u dnssrv.Update, whole bool, err error) {
	if !j.begun {
		j.begun, j.seq = true, p.Seq
		j.u = dnssrv.Update{
			Reset: p.Reset, Base: p.Base, Nodes: p.Nodes, Origins: p.Origins, Records: p.Records, More: p.More,
		}
	} else {
		if p.Seq != j.seq || p.Reset || p.Base != nil || p.Nodes != nil || p.More || p.Continues {
			return u, false, broken("update %d is mixed with %d", j.seq, p.Seq)
		}
		j.u.Origins = append(j.u.Origins, p.Origins...)
		if j.u.Records == nil {
			j.u.Records = p.Records
		} else {
			for owner, list := range p.Records {
				j.u.Records[owner] = list
			}
		}
	}
	if len(j.u.Records) > maxOwners || len(j.u.Origins) > maxOrigins {
		return u, false, broken("an update has at most %d names and %d origins", maxOwners, maxOrigins)
	}
	if !p.Last {
		return u, false, nil
	}
	u, j.begun, j.u = j.u, false, dnssrv.Update{}
	return u, true, nil
}

// check reports whether a report of the process can be shown to an operator.
func (a applied) check() error {
	if len(a.Conflicts) > maxSentences || a.More < 0 {
		return broken("%d conflicts", len(a.Conflicts))
	}
	for _, s := range append(slices.Clone(a.Conflicts), a.Error) {
		if !isSentence(s) {
			return broken("a sentence of %d bytes", len(s))
		}
	}
	return nil
}

func isSentence(s string) bool {
	return len(s) <= maxSentence && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func odd(r rune) bool { return r < '!' || r > '~' }

func (s sighting) check() error {
	switch {
	case !s.Client.IsValid():
		return broken("a question of nobody")
	case s.Name == "" || len(s.Name) > maxMissName || strings.ContainsFunc(s.Name, odd):
		return broken("a question for a name of %d bytes", len(s.Name))
	case s.Verdict > dnssrv.Refused || s.Count == 0:
		return broken("%d questions with verdict %d", s.Count, s.Verdict)
	}
	return nil
}

func (m miss) check() error {
	switch {
	case !m.Client.IsValid():
		return broken("a miss of nobody")
	case m.Name == "" || len(m.Name) > maxMissName || strings.ContainsFunc(m.Name, odd):
		return broken("a miss of a name of %d bytes", len(m.Name))
	case m.Type == "" || len(m.Type) > 16 || strings.ContainsFunc(m.Type, odd):
		return broken("a miss of a type of %d bytes", len(m.Type))
	}
	return nil
}

// check restricts the labels of metrics to a small fixed set.
func (s stats) check() error {
	if len(s.Stats.Answers) > 32 {
		return broken("%d response codes", len(s.Stats.Answers))
	}
	for rcode := range s.Stats.Answers {
		odd := func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') }
		if rcode == "" || len(rcode) > 16 || strings.ContainsFunc(rcode, odd) {
			return broken("a response code of %d bytes", len(rcode))
		}
	}
	return checkLoops(s.Stats.Loops)
}

// checkLoops checks what status shows.
func checkLoops(list []dnssrv.Loop) error {
	if len(list) > 16 {
		return broken("%d loops", len(list))
	}
	for _, l := range list {
		_, err := netip.ParseAddrPort(l.Resolver)
		if err != nil || len(l.Name) > maxMissName || strings.ContainsFunc(l.Name, odd) {
			return broken("a loop by a resolver of %d bytes", len(l.Resolver))
		}
		if _, err := netip.ParseAddr(l.Client); err != nil && l.Client != "" {
			return broken("a loop of a client of %d bytes", len(l.Client))
		}
	}
	return nil
}

func (h hello) check() error {
	if h.Protocol != protocol {
		return fmt.Errorf("it speaks protocol %d of version %s, this is protocol %d: restart both units",
			h.Protocol, clip(h.Version), protocol)
	}
	if !isSentence(h.Version) || len(h.Version) > 200 || len(h.Addrs) > maxAddrs {
		return broken("a hello with %d addresses", len(h.Addrs))
	}
	return nil
}

func clip(s string) string {
	if !isSentence(s) || len(s) > 80 {
		return "?"
	}
	return s
}
