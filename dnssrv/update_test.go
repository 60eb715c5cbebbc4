package dnssrv

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// TestApply is the story of a table that changes name by name.
func TestApply(t *testing.T) {
	s := New(Config{})
	a := func(name, value string) Record { return Record{Name: name, Type: "A", Values: []string{value}} }
	node := Node{Name: "n1", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Healthy: true}
	base := &Base{Domain: "casemate.internal", Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for _, step := range []struct {
		what   string
		update Update
		fails  bool
		holds  map[string]bool
	}{
		{"nothing yet", Update{}, true, map[string]bool{"a.example": false}},
		{"the first", Update{
			Reset: true, Base: base, Nodes: []Node{node}, Origins: []string{"quay.io"},
			Records: map[string][]Record{"a.example": {a("a.example", "10.1.1.1")}},
		}, false, map[string]bool{"a.example": true, "quay.io": true, "b.example": false}},
		{"one more name", Update{Records: map[string][]Record{"b.example": {a("b.example", "10.1.1.2")}}}, false,
			map[string]bool{"a.example": true, "quay.io": true, "b.example": true}},
		{"a bad one", Update{Records: map[string][]Record{"b.example": {a("b.example", "x")}}}, true,
			map[string]bool{"a.example": true, "quay.io": true, "b.example": true}},
		{"a name less", Update{Records: map[string][]Record{"a.example": nil}}, false,
			map[string]bool{"a.example": false, "quay.io": true, "b.example": true}},
		{"other origins", Update{Origins: []string{"docker.io"}}, false,
			map[string]bool{"docker.io": true, "quay.io": false, "b.example": true}},
		{"anew", Update{Reset: true, Base: base, Nodes: []Node{node}}, false,
			map[string]bool{"docker.io": false, "b.example": false, "n1.casemate.internal": true}},
	} {
		if _, err := s.Apply(step.update); (err != nil) != step.fails {
			t.Fatalf("%s: %v", step.what, err)
		}
		for name, want := range step.holds {
			if got := s.Holds(dns.Fqdn(name)); got != want {
				t.Errorf("%s: holds %s: %v, want %v", step.what, name, got, want)
			}
		}
	}
}
