package dnssrv

import (
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// Holds reports whether questions for name are answered from the newest table, by itself or through a wildcard: then
// asking for it is no miss. What resolvers would say of it is another question.
func (s *Server) Holds(name string) bool {
	t := s.table.Load()
	if t == nil {
		return false
	}
	var buf [256]byte
	n, err := dns.PackDomainName(dns.CanonicalName(name), buf[:], 0, nil, false)
	return err == nil && t.find(buf[:n]) != nil
}

func TestHolds(t *testing.T) {
	if New(Config{}).Holds("docker.io") {
		t.Error("a server without a table holds a name")
	}
	spec := threeNodes()
	spec.Records = append(spec.Records, Record{Name: "*.apps.example", Type: "A", Values: []string{"10.0.0.7"}})
	r := start(t, spec)
	by := HeldBy(slices.Values(append(slices.Clone(spec.Origins), "*.apps.example")))
	for name, want := range map[string]bool{
		"docker.io": true, "Registry-1.Docker.io": true, "docker.io.": true, "x.apps.example": true,
		"x.y.apps.example": true,
		"k8s.io":           false, "nowhere.example": false, "apps.example": false, "": false, `\000`: false,
		"a..b": false,
	} {
		if got := r.Holds(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
		if got := by(name); got != want {
			t.Errorf("%q: %v by the names of owners, want %v", name, got, want)
		}
	}
}
