package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// entry is what is kept of a login to one server.
type entry struct {
	Key   string `json:"key"`             // an API key
	Login string `json:"login,omitempty"` // the key's name, if it is of this login alone
	CA    string `json:"ca,omitempty"`    // PEM of what vouches for the server besides what this host trusts
}

// serversFile is the file with the logins, by server; only its owner may read it.
func serversFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("where logins are kept: %w", err)
	}
	return filepath.Join(dir, "casemate", "servers.json"), nil
}

func readServers() (map[string]entry, string, error) {
	file, err := serversFile()
	if err != nil {
		return nil, "", err
	}
	servers := map[string]entry{}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return servers, file, nil
	}
	if err == nil {
		if info, serr := os.Stat(file); serr == nil && info.Mode().Perm()&0o077 != 0 {
			return nil, "", fmt.Errorf("%s has keys and can be read by others: chmod 600 %s", file, file)
		}
		err = json.Unmarshal(data, &servers)
	}
	if err != nil {
		return nil, "", fmt.Errorf("the logins in %s: %w", file, err)
	}
	return servers, file, nil
}

// kept returns the login to a server, nil if there is none.
func kept(server string) (*entry, error) {
	servers, _, err := readServers()
	if e, ok := servers[server]; ok {
		return &e, err
	}
	return nil, err
}

// keep stores the login to a server; nil removes it.
func keep(server string, e *entry) error {
	servers, file, err := readServers()
	if err != nil {
		return err
	}
	if e == nil {
		delete(servers, server)
	} else {
		servers[server] = *e
	}
	data, err := json.MarshalIndent(servers, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = replaceFile(file, string(data), 0o600)
	}
	if err != nil {
		return fmt.Errorf("the login is not kept: %w", err)
	}
	return nil
}

// parseServer returns the address of a server: https, a host and perhaps a port.
func parseServer(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.Fragment != "" {
		return nil, usageError{fmt.Errorf("--server must be https and a host, like https://casemate.internal, got %q",
			text)}
	}
	u.Path = ""
	return u, nil
}

// remote makes c a client of a server over https: with the login to it, or the API key in CASEMATE_KEY.
func (c *client) remote(server, caFile string) error {
	u, err := parseServer(server)
	if err != nil {
		return err
	}
	c.server = u
	e, err := kept(u.String())
	if err != nil {
		return err
	}
	if e == nil {
		e = &entry{}
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return fmt.Errorf("--ca: %w", err)
		}
		e.CA = string(pem)
	}
	c.ca = e.CA
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(e.CA)) {
			return usageError{fmt.Errorf("--ca %s has no certificate in PEM", caFile)}
		}
		tlsConfig.RootCAs = pool
	}
	key := e.Key
	if k := os.Getenv("CASEMATE_KEY"); k != "" {
		key = k
	}
	if key != "" {
		c.authorize("Bearer " + key)
	}
	c.http = &http.Client{
		Transport: &http.Transport{TLSClientConfig: tlsConfig, Proxy: http.ProxyFromEnvironment,
			ForceAttemptHTTP2: false, TLSHandshakeTimeout: 30 * time.Second},
		// A redirect could lead the key elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// authorize sets what requests to the server are sent with.
func (c *client) authorize(header string) { c.authorization = header }

// basic authorizes with a user and the password (RFC 7617).
func (c *client) basic(user, password string) {
	c.authorize("Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// explain says what to do about a server that could not be reached.
func (c *client) explain(err error) error {
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%s has a certificate that this host does not trust: give the bastions' root certificate, "+
			"which is \"casemate ca\" on a bastion, with --ca FILE", c.server)
	default:
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("%s: %w", c.server, err)
	}
}

// local are the commands that are done on this host, whatever server is named, by their paths.
var local = []string{
	"init", "join", "restore", "serve", "sockets", "dns", "man", "version", "help", "completion", "doctor",
	"cluster recover", "config check", "rehearse", "replay", "reload",
	"bundle keygen", "bundle inspect", "bundle verify",
}

// chooseServer takes the server from CASEMATE_SERVER if no flag names one, except for commands of this host, which
// cannot be given one.
func (o *options) chooseServer(cmd *cobra.Command) error {
	path := strings.TrimPrefix(cmd.CommandPath(), "casemate ")
	for _, l := range local {
		if path != l && !strings.HasPrefix(path, l+" ") {
			continue
		}
		if o.server != "" {
			return usageError{fmt.Errorf("casemate %s is done on this host: run it where it is needed, without "+
				"--server", path)}
		}
		return nil
	}
	switch {
	case o.server != "":
		if cmd.Flags().Changed("socket") {
			return usageError{errors.New("--server and --socket name two daemons: give one of them")}
		}
	case !cmd.Flags().Changed("socket"):
		o.server = os.Getenv("CASEMATE_SERVER")
	}
	if o.ca != "" && o.server == "" {
		return usageError{errors.New("--ca is for --server: the local daemon needs none")}
	}
	return nil
}
