package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"casemate/appliance/config"
	"casemate/appliance/service"
	"casemate/appliance/setup"
)

// client talks to the local daemon over its admin socket, or to a bastion over https (docs/admin-api.md).
type client struct {
	socket string
	config string // of the node whose socket it may be
	http   *http.Client

	// Of a client over https.
	server        *url.URL // nil: the admin socket
	authorization string   // header
	ca            string   // PEM
	wrong         error    // why there is no such client
}

// apiError is an error answer of the daemon.
type apiError struct {
	status  int
	message string
}

func (e *apiError) Error() string { return e.message }

// client returns a client for the chosen server or socket.
func (o *options) client() *client {
	c := &client{socket: o.socket, config: config.DefaultFile}
	if o.server != "" {
		c.wrong = c.remote(o.server, o.ca)
		return c
	}
	c.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // one command, one request
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
	}}
	return c
}

func (c *client) connect(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", c.socket)
}

// dial returns a connection to the socket, for protocols other than request and answer.
func (c *client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, c.unreachable(err)
	}
	return conn, nil
}

// do sends a request with an optional body and leaves the answer's body to the caller.
func (c *client) do(ctx context.Context, method, path string, query url.Values,
	body io.Reader) (*http.Response, error) {
	return c.send(ctx, method, path, query, body, "")
}

// send is do with the body's media type.
func (c *client) send(ctx context.Context, method, path string, query url.Values, body io.Reader,
	media string) (*http.Response, error) {
	header := map[string]string{}
	if media != "" {
		header["Content-Type"] = media
	}
	return c.sendWith(ctx, method, path, query, body, header)
}

// sendWith is do with headers.
func (c *client) sendWith(ctx context.Context, method, path string, query url.Values, body io.Reader,
	header map[string]string) (*http.Response, error) {
	if c.wrong != nil {
		return nil, c.wrong
	}
	u := "http://casemate/v1/" + path
	if c.server != nil {
		u = c.server.String() + "/v1/" + path
	}
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	if c.authorization != "" {
		req.Header.Set("Authorization", c.authorization)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var answer struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(text, &answer) != nil || answer.Error == "" {
		answer.Error = fmt.Sprintf("the daemon answered %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	if resp.StatusCode == http.StatusUnauthorized && c.server != nil {
		answer.Error += fmt.Sprintf(": casemate login --server %s", c.server)
	}
	return nil, &apiError{resp.StatusCode, answer.Error}
}

// unreachable explains why the daemon cannot be reached and what to do.
func (c *client) unreachable(err error) error {
	if c.server != nil {
		return c.explain(err)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		return err
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission for the admin socket %s: run the command as root or as a member of the group "+
			"casemate", c.socket)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		if err := c.stopped(); err != nil {
			return err
		}
		return fmt.Errorf("no casemate is running here (admin socket %s): start it with \"systemctl start casemate\" "+
			"or "+
			"\"casemate serve\", or name another socket with --socket", c.socket)
	}
	return fmt.Errorf("admin socket %s: %w", c.socket, op.Err)
}

// stopped says why the node of this socket does not run and what to do; nil if no reason can be seen, or if the socket
// is not that of this host's node.
func (c *client) stopped() error {
	cfg, err := loadConfig(c.config)
	if blank, berr := config.Blank(c.config); err != nil && berr == nil && blank {
		cfg, err = config.Config{Data: service.DataDir, Listen: config.Listen{Admin: config.DefaultSocket}}, nil
	}
	if err != nil {
		if c.socket == config.DefaultSocket {
			return fmt.Errorf("no casemate is running here, and it cannot run: %w", err)
		}
		return nil
	}
	if cfg.Listen.Admin != c.socket {
		return nil
	}
	return setup.Stopped(context.Background(), cfg, c.config)
}

// takenPorts says which other programs have ports of the node of this socket; the daemon itself sees no other
// processes.
func (c *client) takenPorts() []string {
	cfg, err := loadConfig(c.config)
	if err != nil || cfg.Listen.Admin != c.socket {
		return nil
	}
	if taken := setup.TakenPorts(cfg); taken != "" {
		return []string{taken}
	}
	return nil
}

// call sends in (JSON, unless nil) and decodes the answer into out (unless nil).
func (c *client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	resp, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// seg escapes one path segment.
func seg(parts ...string) string {
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}
