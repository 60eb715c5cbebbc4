//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/miekg/dns"
)

// honest is a host of a site that does what hosts do.
type honest struct {
	siegeConf
	tl    *tally
	roots *x509.CertPool
	turn  int // the bastion that it asks first
}

// beHonest starts an honest host's requests, of each kind one after another with a pause between.
func beHonest(ctx context.Context, wg *sync.WaitGroup, conf siegeConf, tl *tally) {
	h := &honest{siegeConf: conf, tl: tl, roots: x509.NewCertPool(), turn: int(conf.Name[len(conf.Name)-1] - '0')}
	h.roots.AppendCertsFromPEM([]byte(conf.Roots))
	opts := func(rt http.RoundTripper) []remote.Option {
		ops := authn.FromConfig(authn.AuthConfig{Username: "ops", Password: siegePassword})
		return []remote.Option{remote.WithTransport(rt), remote.WithAuth(ops)}
	}
	pushed, put := 0, 0
	for kind, k := range map[string]struct {
		pause time.Duration
		do    func(rt http.RoundTripper) error
	}{
		"dns": {50 * time.Millisecond, func(http.RoundTripper) error {
			_, err := h.lookup([]string{"registry.k8s.io", "dl.k8s.io", siegeOwn}[time.Now().UnixNano()%3])
			return err
		}},
		"pull": {time.Second, func(rt http.RoundTripper) error {
			ref, err := name.ParseReference(siegeImage)
			if err != nil {
				return err
			}
			img, err := remote.Image(ref, remote.WithTransport(rt))
			if err != nil {
				return err
			}
			return readAll(img)
		}},
		"push and pull": {2 * time.Second, func(rt http.RoundTripper) error {
			img, err := random.Image(16<<10, 2)
			if err != nil {
				return err
			}
			pushed++
			ref, err := name.NewTag(fmt.Sprintf("%s/team/%s:%d", siegeOwn, h.Name, pushed%10))
			if err != nil {
				return err
			}
			if err := remote.Write(ref, img, opts(rt)...); err != nil {
				return err
			}
			digest, err := img.Digest()
			if err != nil {
				return err
			}
			back, err := remote.Image(ref.Context().Digest(digest.String()), opts(rt)...)
			if err != nil {
				return fmt.Errorf("what was pushed: %w", err)
			}
			return readAll(back)
		}},
		"download": {time.Second, func(rt http.RoundTripper) error {
			body, err := h.get(rt, conf.File)
			if err != nil {
				return err
			}
			if sum := fmt.Sprintf("%x", sha256.Sum256(body)); sum != conf.FileSum {
				return fmt.Errorf("%s: got %d bytes with the SHA-256 %s", conf.File, len(body), sum)
			}
			return nil
		}},
		"put and get a file": {3 * time.Second, func(rt http.RoundTripper) error {
			data := make([]byte, 8<<10)
			rand.Read(data)
			put++
			path := fmt.Sprintf("%s/%d", h.Name, put%10)
			req, err := http.NewRequest(http.MethodPut, siegeFiles+path, bytes.NewReader(data))
			if err != nil {
				return err
			}
			req.SetBasicAuth("ops", siegePassword)
			if _, err := h.do(rt, req); err != nil {
				return err
			}
			body, err := h.get(rt, "https://dl.k8s.io/siege/"+path)
			if err == nil && !bytes.Equal(body, data) {
				err = fmt.Errorf("%s: got %d bytes that are not those that were put", path, len(body))
			}
			return err
		}},
		"scrape": {5 * time.Second, func(http.RoundTripper) error {
			for _, b := range conf.Bastions {
				rt := &http.Transport{DisableKeepAlives: true}
				if _, err := h.get(rt, "http://"+b+"/metrics"); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				h.once(kind, k.do)
				select {
				case <-ctx.Done():
				case <-time.After(k.pause):
				}
			}
		})
	}
}

// readAll reads an image's config and layers, each of which is compared with its digest.
func readAll(img v1.Image) error {
	if _, err := img.RawConfigFile(); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		want, err := l.Digest()
		if err != nil {
			return err
		}
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		hash := sha256.New()
		_, err = io.Copy(hash, r)
		r.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", want, err)
		}
		if sum := fmt.Sprintf("%x", hash.Sum(nil)); sum != want.Hex {
			return fmt.Errorf("%s: got bytes with the digest %s", want, sum)
		}
	}
	return nil
}

// once makes one request of a kind. A failed one is repeated after 1 and after 10 seconds: the minimum of what such
// clients do. (A kubelet tries without end; crane and containerd repeat parts of it before it fails.)
func (h *honest) once(kind string, do func(rt http.RoundTripper) error) {
	phase, began := h.tl.now(), time.Now()
	pauses := []time.Duration{time.Second, 10 * time.Second}
	for try := 0; ; try++ {
		// As a new process: with new connections.
		rt := &http.Transport{DialContext: h.dial, TLSClientConfig: &tls.Config{RootCAs: h.roots},
			TLSHandshakeTimeout: time.Minute}
		err := do(rt)
		rt.CloseIdleConnections()
		h.tl.add(phase, kind, func(c *count) {
			switch {
			case err == nil:
				c.Done++
				c.Ms = append(c.Ms, float32(time.Since(began).Seconds()*1000))
				if try > 0 {
					c.Retried++
				}
			case try == len(pauses):
				c.Failed++
				c.because(err)
			default:
				c.because(err)
			}
		})
		if err == nil || try == len(pauses) {
			return
		}
		time.Sleep(pauses[try])
	}
}

func (h *honest) get(rt http.RoundTripper, url string) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return h.do(rt, req)
}

func (h *honest) do(rt http.RoundTripper, req *http.Request) ([]byte, error) {
	resp, err := (&http.Client{Transport: rt, Timeout: 5 * time.Minute}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s: %.200s", req.URL.Path, resp.Status, body)
	}
	return body, err
}

// dial tries what DNS names, in its order, as clients do.
func (h *honest) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	addrs, err := h.lookup(host)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		var c net.Conn
		c, err = (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, network, net.JoinHostPort(a, port))
		if err == nil {
			return c, nil
		}
	}
	return nil, err
}

// lookup asks as the C library does: each resolver for five seconds, all of them twice, over TCP where the answer
// says so.
func (h *honest) lookup(host string) (addrs []string, err error) {
	for i := range 2 * len(h.Bastions) {
		server := net.JoinHostPort(h.Bastions[(h.turn+i)%len(h.Bastions)], "53")
		q := new(dns.Msg).SetQuestion(dns.Fqdn(host), dns.TypeA)
		var r *dns.Msg
		began := time.Now()
		r, _, err = (&dns.Client{Timeout: 5 * time.Second}).Exchange(q, server)
		if err == nil && r.Truncated {
			r, _, err = (&dns.Client{Net: "tcp", Timeout: 5 * time.Second}).Exchange(q, server)
		}
		if err != nil {
			h.tl.add(h.tl.now(), "dns, single questions", func(c *count) { c.Retried++; c.because(err) })
			continue
		}
		h.tl.add(h.tl.now(), "dns, single questions", func(c *count) {
			c.Done++
			c.Ms = append(c.Ms, float32(time.Since(began).Seconds()*1000))
		})
		for _, rr := range r.Answer {
			if a, ok := rr.(*dns.A); ok {
				addrs = append(addrs, a.A.String())
			}
		}
		if len(addrs) > 0 {
			return addrs, nil
		}
		err = fmt.Errorf("%s at %s: %s without an address", host, server, dns.RcodeToString[r.Rcode])
	}
	if err == nil {
		err = errors.New("no resolver")
	}
	return nil, fmt.Errorf("lookup: %s", strings.TrimSpace(err.Error()))
}
