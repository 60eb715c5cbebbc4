package pki

import (
	"context"
	"crypto/x509"
	"testing"
	"time"
)

// initBefore is Init as it was before roots stood below an anchor: what clients trust signs the intermediates, mail
// addresses, URIs and TLS clients are not constrained.
func initBefore(ctx context.Context, tree Tree, sealer Sealer, spec Spec, enabled []string) error {
	k, err := spec.constraints()
	if err != nil {
		return err
	}
	names, err := canonicals(enabled)
	if err != nil {
		return err
	}
	ik, err := issuerConstraints(k, spec.Domain, spec.Addrs, names)
	if err != nil {
		return err
	}
	plain := func(t *x509.Certificate, k constraints, usages ...x509.ExtKeyUsage) *x509.Certificate {
		k.apply(t)
		t.PermittedEmailAddresses, t.ExcludedEmailAddresses, t.PermittedURIDomains, t.ExcludedURIDomains = nil, nil, nil, nil
		t.ExtKeyUsage = usages
		return t
	}
	now := spec.now()
	t, key, id, err := caTemplate("root", spec.Domain, now, now.Add(rootLife))
	if err != nil {
		return err
	}
	t.MaxPathLen = 2
	cert, err := sign(plain(t, k), key.Public(), nil, key)
	if err != nil {
		return err
	}
	root := (&authority{ref: rootRef{ID: id}, anchor: cert}).ready()
	t, own, issuerID, err := caTemplate("intermediate", spec.Domain, now, now.Add(issuerLife))
	if err != nil {
		return err
	}
	t.MaxPathLen, t.MaxPathLenZero, t.CRLDistributionPoints = 0, true, listURL(spec.CRLURL, cert, id)
	mid, err := sign(plain(t, ik, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth), own.Public(), cert, key)
	if err != nil {
		return err
	}
	iss := (&issuer{id: issuerID, cert: mid, chain: []*x509.Certificate{mid}, key: own}).under(root)
	return tree.Update(ctx, func(b Batch) error {
		if err := root.put(b, sealer, key); err != nil {
			return err
		}
		if err := iss.put(b, sealer, names); err != nil {
			return err
		}
		if spec.CRLURL != "" {
			if err := root.putRootList(b, key, nil, nil, now, now.Add(rootListLife)); err != nil {
				return err
			}
		}
		if err := putJSON(b, "node/"+spec.Node, spec.Addrs); err != nil {
			return err
		}
		return putState(b, state{Root: root.ref, Issuer: iss.id})
	})
}

var _ = time.Now
var _ testing.TB
