package nodeconf

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// sound returns why no configuration can be written for this site. Names and addresses are written unquoted into
// shell, TOML, YAML and JSON on every node of a site, so anything but a plain host name is refused.
func (s *Site) sound() error {
	if !plainHost(s.Domain) {
		return fmt.Errorf("the domain must be a lower-case zone with a dot, got %q", s.Domain)
	}
	if len(s.Nodes) == 0 {
		return errors.New("there must be at least one bastion, got none")
	}
	seen := map[string]bool{}
	for _, n := range s.Nodes {
		if !plainLabel(n.Name) || seen[n.Name] {
			return fmt.Errorf("a bastion's name must be one lower-case label that no other has, got %q", n.Name)
		}
		seen[n.Name] = true
		if len(n.Addrs) == 0 {
			return fmt.Errorf("bastion %s must have an address, got none", n.Name)
		}
		for _, a := range n.Addrs {
			if !reachable(a) {
				return fmt.Errorf("bastion %s must have addresses that nodes reach, got %q", n.Name, a)
			}
		}
	}
	for _, o := range s.Origins {
		for _, h := range append([]string{o.Host}, o.Aliases...) {
			if !plainHost(h) {
				return fmt.Errorf("an origin must be a lower-case host name with a dot, got %q", h)
			}
		}
	}
	_, err := s.roots()
	return err
}

// reachable reports whether other machines may reach the address. An IPv6 zone identifier is free text and valid on one
// machine only, and without one an IPv6 link-local address cannot be used. Link-local IPv4 addresses need no zone.
func reachable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() &&
		!(a.Is6() && a.IsLinkLocalUnicast())
}

// roots returns the root certificates, encoded again: text around them in the PEM is dropped.
func (s *Site) roots() (string, error) {
	var out bytes.Buffer
	for rest := []byte(s.Roots); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return "", fmt.Errorf("the roots must be certificates, got %q", b.Type)
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			return "", fmt.Errorf("the roots must be certificates: %w", err)
		}
		pem.Encode(&out, &pem.Block{Type: b.Type, Bytes: b.Bytes})
	}
	if out.Len() == 0 {
		return "", errors.New("the roots must be certificates, got none")
	}
	return out.String(), nil
}

func plainLabel(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func plainHost(s string) bool {
	if len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !plainLabel(label) {
			return false
		}
	}
	_, err := netip.ParseAddr(s)
	return err != nil
}
