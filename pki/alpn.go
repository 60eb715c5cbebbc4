package pki

import (
	"crypto/tls"
	"slices"
)

// protocols are what the TLS server negotiates, the best first. h2 is last because it costs twice the CPU per byte: it
// is used only with clients that offer nothing else.
var protocols = []string{"http/1.1", "http/1.0", "h2"}

// TLSConfig returns the configuration of a TLS server that serves every known name, for net/http, which supports all of
// protocols. With a client that offers only others (http/0.9, something unknown), no protocol is negotiated, as with a
// server that does not support ALPN. RFC 7301 (3.2) demands that the handshake fail, but such clients speak HTTP/1 when
// nothing was negotiated.
func (c *CA) TLSConfig() *tls.Config {
	cfg := &tls.Config{
		GetCertificate: c.leaves.get, MinVersion: tls.VersionTLS12, NextProtos: protocols,
		// Small records at the start spare a slow line a moment and cost each small answer several system calls.
		DynamicRecordSizingDisabled: true,
	}
	// Made once and not per handshake: session ticket keys belong to a configuration.
	silent := cfg.Clone()
	silent.NextProtos = nil
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.ContainsFunc(hello.SupportedProtos, func(p string) bool { return slices.Contains(protocols, p) }) {
			return nil, nil
		}
		return silent, nil
	}
	return cfg
}
