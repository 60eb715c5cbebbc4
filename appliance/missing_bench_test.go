package appliance

import (
	"fmt"
	"net/netip"
	"testing"

	"casemate/appliance/clients"
	"casemate/appliance/missing"
	"casemate/appliance/setup"
)

// fillMisses records entries of all kinds by 500 clients, as many as the book holds.
func fillMisses(n *node) {
	for i := range 12000 {
		client := netip.AddrFrom4([4]byte{10, 1, byte(i % 500 >> 8), byte(i % 500)})
		kind, name := missing.Image, fmt.Sprintf("quay.io/team%d/app%d:1.%d", i%40, i%900, i)
		switch i % 10 {
		case 3, 4, 5:
			kind, name = missing.File, fmt.Sprintf("https://dl.k8s.io/release/v1.%d/bin/linux/amd64/tool%d", i%90, i)
		case 6:
			kind, name = missing.DNS, fmt.Sprintf("host%d.site%d.example", i, i%50)
		case 7:
			kind, name = missing.Blob, fmt.Sprintf("quay.io/team/app@sha256:%064x", i)
		case 8:
			kind, name = missing.Host, fmt.Sprintf("web%d.example.com", i)
		}
		n.book.Add(kind, name, "", client)
	}
}

func BenchmarkMissingList(b *testing.B) {
	n := freshNode(b, setup.InitOptions{})
	fillMisses(n)
	for _, query := range []string{"", "?limit=100", "?limit=100&q=tool11", "?all=true"} {
		b.Run("get"+query, func(b *testing.B) {
			var text string
			for b.Loop() {
				n.must("GET", "missing"+query, nil, &text)
			}
			b.ReportMetric(float64(len(text)), "bytes")
		})
	}
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if list, err := n.book.List(); err != nil || len(list) < 5000 {
				b.Fatal(len(list), err)
			}
		}
	})
}

// BenchmarkClientList: 500 nodes and a full missing book, which changes each time.
func BenchmarkClientList(b *testing.B) {
	n := freshNode(b, setup.InitOptions{})
	fillMisses(n)
	for i := range 500 {
		n.clients.Requested(clients.Request{Client: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), TLS: true,
			Content: true, Agent: "containerd/v2.1.0", Status: 404,
			What: func() string { return "GET https://quay.io/: 404" }})
	}
	for _, path := range []string{"clients?limit=50", "clients/show?client=10.1.0.7", "missing?limit=12&kind=image",
		"missing/clients", "missing/lists?format=images"} {
		b.Run(path, func(b *testing.B) {
			var text string
			for i := 0; b.Loop(); i++ {
				n.book.Add(missing.Image, fmt.Sprintf("quay.io/new/app:%d", i), "", netip.MustParseAddr("10.1.0.7"))
				n.must("GET", path, nil, &text)
			}
			b.ReportMetric(float64(len(text)), "bytes")
		})
	}
}
