//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// hostile is a host with several addresses from which it attacks.
type hostile struct {
	siegeConf
	ctx     context.Context
	clients []*http.Client // one for each of its addresses
	raw     int            // a socket for packets with forged sources
	chain   atomic.Pointer[link]
	cert    tls.Certificate
	join    []byte // a request to join, with an absurd key
}

// attack is one kind. do makes it once; parallel are under way at a time, rate are begun a second, by each host.
type attack struct {
	name     string
	rate     float64
	parallel int
	do       func(a *hostile) error
}

// attacks are made all at once. Those that hold something end when the other side closes it, and are begun anew.
//
// Five hosts of ten addresses each hold some 4 800 connections at ports 80 and 443 of each bastion and 1 300 at its
// port 53, more than there are places for.
var attacks = []attack{
	{"forged DNS sources", 100, 4, (*hostile).forge},
	{"random names", 100, 50, (*hostile).randomName},
	{"DNS over TCP, idle", 40, 400, func(a *hostile) error { return a.holdTCP("53", nil) }},
	{"DNS over TCP, half", 40, 400, func(a *hostile) error { return a.holdTCP("53", []byte{0, 60, 1, 2, 1, 0, 0, 1}) }},
	{"idle at 80", 60, 600, func(a *hostile) error { return a.holdTCP("80", nil) }},
	{"idle at 443", 60, 600, func(a *hostile) error { return a.holdTCP("443", nil) }},
	{"half a handshake", 30, 450, func(a *hostile) error { return a.holdTCP("443", hello[:90]) }},
	{"slow header", 30, 450, func(a *hostile) error {
		return a.holdTCP("80", []byte("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "))
	}},
	{"dripping body", 15, 450, (*hostile).dripBody},
	{"slow reader", 10, 300, (*hostile).slowReader},
	{"wrong logins", 5, 40, (*hostile).wrongLogin},
	{"thousands of ranges", 1, 10, (*hostile).ranges},
	{"lists", 2, 20, func(a *hostile) error {
		return a.open("https://"+siegeOwn, "/v2/_catalog?n=100000", "/v2/"+siegeRepo+"/tags/list?n=100000")
	}},
	{"referrers", 0.5, 10, func(a *hostile) error {
		return a.open("https://"+siegeOwn, "/v2/"+siegeRepo+"/referrers/"+annotated)
	}},
	{"open pages", 5, 40, func(a *hostile) error {
		return a.open("http://"+a.bastion(), "/doctor.json", "/site.json", "/metrics", "/enroll", "/", "/readyz",
			"/files/")
	}},
	{"missing names", 10, 50, func(a *hostile) error {
		n := rand.Uint64()
		return a.open("https://", fmt.Sprintf("registry.k8s.io/v2/no%x/manifests/1", n),
			fmt.Sprintf("dl.k8s.io/no%x", n))
	}},
	{"peer port, joins", 3, 20, (*hostile).joinAbsurdly},
	{"peer port, handshakes", 5, 20, (*hostile).strange},
	{"peer port, half", 10, 100, func(a *hostile) error { return a.holdTCP("7443", hello[:90]) }},
	{"passed on with ..", 5, 20, (*hostile).passOn},
	{"user: upload sessions", 1, 20, (*hostile).session},
	{"user: indexes in indexes", 1, 4, (*hostile).deepIndex},
	{"user: annotations", 0.5, 2, (*hostile).annotate},
}

// annotated is the subject of referrers; it need not exist.
var annotated = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("annotated")))

// hello is the beginning of a TLS handshake.
var hello = func() []byte {
	c, s := net.Pipe()
	go func() { tls.Client(c, &tls.Config{ServerName: "registry.k8s.io"}).Handshake() }()
	b := make([]byte, 4096)
	n, _ := s.Read(b)
	s.Close()
	return b[:max(n, 90)]
}()

// beHostile starts all attacks.
func beHostile(ctx context.Context, wg *sync.WaitGroup, conf siegeConf, tl *tally) error {
	a := &hostile{siegeConf: conf, ctx: ctx}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(conf.Roots))
	for _, from := range conf.Addrs {
		a.clients = append(a.clients, &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 8, IdleConnTimeout: 10 * time.Second,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				host, port, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				if net.ParseIP(host) == nil {
					host = a.bastion()
				}
				return a.dialer(from).DialContext(ctx, network, net.JoinHostPort(host, port))
			},
		}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
	}
	var err error
	if a.raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW); err != nil {
		return err
	}
	if a.join, err = absurdJoin(); err != nil {
		return err
	}
	if a.cert, err = strangersCert(); err != nil {
		return err
	}
	for _, at := range attacks {
		free := make(chan struct{}, at.parallel)
		wg.Go(func() {
			tick := time.NewTicker(time.Duration(float64(time.Second) / at.rate))
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				select {
				case free <- struct{}{}:
				default:
					continue
				}
				go func() { // ends with the process
					defer func() { <-free }()
					phase, err := tl.now(), at.do(a)
					tl.add(phase, at.name, func(c *count) {
						if err != nil {
							c.Failed++
							c.because(err)
						} else {
							c.Done++
						}
					})
				}()
			}
		})
	}
	return nil
}

func pick[T any](list []T) T { return list[rand.IntN(len(list))] }

func (a *hostile) bastion() string { return pick(a.Bastions) }

func (a *hostile) dialer(from string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 30 * time.Second}
}

// dial connects one of its addresses to a bastion's port; the connection is closed when the siege ends.
func (a *hostile) dial(port string) (net.Conn, error) {
	c, err := a.dialer(pick(a.Addrs)).DialContext(a.ctx, "tcp", net.JoinHostPort(a.bastion(), port))
	if err == nil {
		context.AfterFunc(a.ctx, func() { c.Close() })
	}
	return c, err
}

// hold sends the byte drip every two seconds, until the other side closes the connection. An end by the other side is
// the expected result, and no error.
func (a *hostile) hold(c net.Conn, drip []byte) error {
	defer c.Close()
	buf := make([]byte, 4096)
	for a.ctx.Err() == nil {
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, err := c.Read(buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil && drip != nil {
			if _, err := c.Write(drip); err != nil {
				return nil
			}
		}
	}
	return nil
}

// holdTCP sends the beginning of something, and no more.
func (a *hostile) holdTCP(port string, begin []byte) error {
	c, err := a.dial(port)
	if err != nil {
		return err
	}
	if _, err := c.Write(begin); err != nil {
		c.Close()
		return err
	}
	var drip []byte
	if port == "80" && len(begin) > 0 {
		drip = []byte("x")
	}
	return a.hold(c, drip)
}

func (a *hostile) tls(name string) (net.Conn, error) {
	c, err := a.dial("443")
	if err != nil {
		return nil, err
	}
	tc := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	tc.SetDeadline(time.Now().Add(time.Minute))
	if err := tc.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	tc.SetDeadline(time.Time{})
	return tc, nil
}

func (a *hostile) dripBody() error {
	dial := func() (net.Conn, error) { return a.dial("80") }
	if rand.IntN(3) == 0 {
		dial = func() (net.Conn, error) { return a.tls(siegeOwn) }
	}
	c, err := dial()
	if err != nil {
		return err
	}
	head := pick([]string{"POST /token", "PUT /v2/team/x/manifests/1", "POST /v2/team/x/blobs/uploads/"})
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
		"Content-Length: 100000\r\n\r\n", head, siegeOwn)
	return a.hold(c, []byte("a"))
}

// slowReader asks for much and takes a little of it, with a receive window as small as the kernel lets it be.
func (a *hostile) slowReader() error {
	d := a.dialer(pick(a.Addrs))
	d.Control = func(_, _ string, rc syscall.RawConn) error {
		return rc.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048) })
	}
	b := a.bastion()
	c, err := d.DialContext(a.ctx, "tcp", b+":80")
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(a.ctx, func() { c.Close() })
	defer stop()
	target := pick([][2]string{{b, "/metrics"}, {b, "/casemate"}, {"dl.k8s.io", "/siege/file"},
		{"registry.k8s.io", "/v2/siege/app/blobs/" + a.Layer},
		{siegeOwn, "/v2/" + siegeRepo + "/referrers/" + annotated}})
	// Many requests in one go, so that there is more to send than fits into the kernel's buffers.
	req := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", target[1], target[0])
	c.Write([]byte(strings.Repeat(req, 50)))
	one := make([]byte, 1)
	for a.ctx.Err() == nil {
		if _, err := c.Read(one); err != nil {
			return nil
		}
		time.Sleep(time.Second)
	}
	return nil
}

// send makes a request from one of its addresses. Any answer counts as one.
func (a *hostile) send(method, url string, body []byte, header ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(a.ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if req.Header.Get("User") == "mallory" {
		req.Header.Del("User")
		req.SetBasicAuth("mallory", siegePassword)
	}
	resp, err := pick(a.clients).Do(req)
	if err != nil {
		return nil, err
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp, nil
}

func (a *hostile) open(base string, paths ...string) error {
	_, err := a.send(http.MethodGet, base+pick(paths), nil)
	return err
}

func (a *hostile) wrongLogin() error {
	who := []string{"ops", "mallory", "root", "admin"}
	req, err := http.NewRequestWithContext(a.ctx, http.MethodGet, "https://"+siegeOwn+"/token?service="+siegeOwn, nil)
	if rand.IntN(3) == 0 {
		req, err = http.NewRequestWithContext(a.ctx, http.MethodPut, siegeFiles+"taken", strings.NewReader("x"))
	}
	if err != nil {
		return err
	}
	req.SetBasicAuth(pick(who), fmt.Sprintf("guess %d", rand.Uint64()))
	resp, err := pick(a.clients).Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return fmt.Errorf("a wrong password was let in: %s", resp.Status)
	}
	return nil
}

func (a *hostile) ranges() error {
	parts := make([]string, 3000)
	for i := range parts {
		parts[i] = fmt.Sprintf("%d-%d", 2*i, 2*i)
	}
	what := pick([]string{a.File, "https://registry.k8s.io/v2/siege/app/blobs/" + a.Layer,
		"http://" + a.bastion() + "/casemate"})
	_, err := a.send(http.MethodGet, what, nil, "Range", "bytes="+strings.Join(parts, ","))
	return err
}

func (a *hostile) randomName() error {
	c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(pick(a.Addrs))}}).Dial("udp", a.bastion()+":53")
	if err != nil {
		return err
	}
	defer c.Close()
	zone := pick([]string{"k8s.io", "casemate.internal", "docker.io", "example.org"})
	name := fmt.Sprintf("x%x.%s.", rand.Uint64(), zone)
	q := new(dns.Msg).SetQuestion(name, pick([]uint16{dns.TypeA, dns.TypeANY, dns.TypeTXT}))
	_, _, err = (&dns.Client{Timeout: 2 * time.Second}).ExchangeWithConn(q, &dns.Conn{Conn: c})
	return err
}

// forge sends four questions from addresses that no host has, or from an honest host's. All attackers forge at one
// bastion at a time: the three are on one kernel here, whose table of neighbours (1 024 by default) has room for what
// one bastion asks for.
func (a *hostile) forge() error {
	bastion := a.Bastions[int(time.Now().Unix()/5)%len(a.Bastions)]
	for range 4 {
		source := net.ParseIP(fmt.Sprintf("%s.%d.%d", siegeNobody, 1+rand.IntN(20), 1+rand.IntN(250)))
		if rand.IntN(10) == 0 {
			source = net.ParseIP(pick(a.Honest))
		}
		q, err := new(dns.Msg).SetQuestion("registry.k8s.io.", dns.TypeA).Pack()
		if err != nil {
			return err
		}
		udp := make([]byte, 8, 8+len(q)) // RFC 768; a checksum of 0 is none
		binary.BigEndian.PutUint16(udp, uint16(20000+rand.IntN(20000)))
		binary.BigEndian.PutUint16(udp[2:], 53)
		binary.BigEndian.PutUint16(udp[4:], uint16(8+len(q)))
		ip := make([]byte, 20) // RFC 791; the kernel fills in length and checksum
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
		to := net.ParseIP(bastion).To4()
		copy(ip[12:], source.To4())
		copy(ip[16:], to)
		packet := append(append(ip, udp...), q...)
		if err := unix.Sendto(a.raw, packet, 0, &unix.SockaddrInet4{Addr: [4]byte(to)}); err != nil {
			return err
		}
	}
	return nil
}

// absurdJoin is a request to join with an RSA key of 64 000 bits.
func absurdJoin() ([]byte, error) {
	n := new(big.Int).Lsh(big.NewInt(1), 64_000-1)
	spki, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 1<<31 - 1})
	if err != nil {
		return nil, err
	}
	raw := func(der ...byte) asn1.RawValue { return asn1.RawValue{FullBytes: der} }
	csr, err := asn1.Marshal(struct {
		Info struct {
			Version                  int
			Subject, Key, Attributes asn1.RawValue
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		Info: struct {
			Version                  int
			Subject, Key, Attributes asn1.RawValue
		}{0, raw(0x30, 0), raw(spki...), raw(0xa0, 0)},
		Algorithm: pkix.AlgorithmIdentifier{
			Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue},
		Signature: asn1.BitString{Bytes: make([]byte, 256), BitLength: 2048},
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"token": "nobody", "signature": make([]byte, 64), "csr": csr, "node": "n9",
		"addr": "10.77.0.99:7443", "version": "1", "format": 1})
}

func strangersCert() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "n1"},
		NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, tmpl, tmpl, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// joinAbsurdly asks to join, with an absurd key or with garbage.
func (a *hostile) joinAbsurdly() error {
	c, err := a.dial("7443")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"casemate-join/1"}})
	if err := tc.Handshake(); err != nil {
		return err
	}
	body := a.join
	if rand.IntN(2) == 0 {
		body = make([]byte, 8192)
		crand.Read(body)
	}
	fmt.Fprintf(tc, "POST /join HTTP/1.1\r\nHost: casemate\r\nContent-Length: %d\r\n\r\n", len(body))
	tc.Write(body)
	_, err = tc.Read(make([]byte, 4096))
	return err
}

// strange makes a handshake with the peer port as a node of another cluster would, or sends other bytes. It is expected
// to be refused; an accepted connection counts as an answer.
func (a *hostile) strange() error {
	c, err := a.dial("7443")
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if rand.IntN(2) == 0 {
		junk := make([]byte, 8192)
		crand.Read(junk)
		c.Write(junk)
	} else {
		tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"casemate-peer/1/x"},
			Certificates: []tls.Certificate{a.cert}}).Handshake()
	}
	c.Read(make([]byte, 1))
	return nil
}

// passOn makes a bastion pass on a request that is not part of a push.
func (a *hostile) passOn() error {
	dial := func() (net.Conn, error) { return a.dial("80") }
	if rand.IntN(2) == 0 {
		dial = func() (net.Conn, error) { return a.tls(siegeOwn) }
	}
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	path := pick([]string{"/v2/x/blobs/uploads/../../../../../member?_node=n2",
		"/v2/x/blobs/uploads/%2e%2e/%2e%2e/beat?_node=n1",
		"/v2/x/blobs/uploads/00000000-0000-0000-0000-000000000000?_node=n3", "//v2/x/blobs/uploads/..;/x?_node=n3"})
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
		pick([]string{"PATCH", "GET", "PUT"}), path, siegeOwn)
	c.SetDeadline(time.Now().Add(time.Minute))
	_, err = c.Read(make([]byte, 4096))
	return err
}

// session begins an upload as a user, and sends no more than a part.
func (a *hostile) session() error {
	url := "https://" + siegeOwn + "/v2/team/sessions/blobs/uploads/"
	resp, err := a.send(http.MethodPost, url, nil, "User", "mallory")
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted {
		return errors.New(resp.Status)
	}
	at, err := resp.Location()
	if err != nil {
		return err
	}
	_, err = a.send(http.MethodPatch, at.String(), make([]byte, 1000), "User", "mallory",
		"Content-Type", "application/octet-stream")
	return err
}

const ociIndex = "application/vnd.oci.image.index.v1+json"

// link is an index that another one may name.
type link struct {
	digest      string
	size, depth int
}

// deepIndex puts an index that names the one before, a thousand deep.
func (a *hostile) deepIndex() error {
	manifests, depth := []map[string]any{}, 0
	if in := a.chain.Load(); in != nil && in.depth < 1000 {
		manifests = append(manifests, map[string]any{"mediaType": ociIndex, "digest": in.digest, "size": in.size})
		depth = in.depth
	}
	doc, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": manifests})
	if err != nil {
		return err
	}
	if err := a.put("team/"+a.Name+"/manifests/deep", doc); err != nil {
		return err
	}
	a.chain.Store(&link{fmt.Sprintf("sha256:%x", sha256.Sum256(doc)), len(doc), depth + 1})
	return nil
}

// put pushes an index.
func (a *hostile) put(path string, doc []byte) error {
	resp, err := a.send(http.MethodPut, "https://"+siegeOwn+"/v2/"+path, doc, "User", "mallory", "Content-Type",
		ociIndex)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = errors.New(resp.Status)
	}
	return err
}

// annotate puts one of 40 referrers with a megabyte of annotations each.
func (a *hostile) annotate() error {
	much := strings.Repeat(string(rune('a'+rand.IntN(20))), 1<<20)
	doc, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ociIndex, "manifests": []int{}, "artifactType": "application/x",
		"subject":     map[string]any{"mediaType": ociIndex, "digest": annotated, "size": 2},
		"annotations": map[string]string{"x": much, "y": fmt.Sprint(rand.IntN(2))}})
	if err != nil {
		return err
	}
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256(doc))
	return a.put(siegeRepo+"/manifests/"+sum, doc)
}
