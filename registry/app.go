package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/sirupsen/logrus"
)

// embed makes distribution's registry over the driver. It is used as a handler: it has no listener, no purger (its
// goroutine ignores its context), no notifications, and no descriptor cache (which would still know a manifest that
// another node deleted).
func embed(u *uploads, secret []byte, log *slog.Logger) (app http.Handler, shutdown func() error, err error) {
	registerDriver()
	forget := bendLogrus(log)
	// NewApp answers a bad configuration by a panic.
	defer func() {
		if p := recover(); p != nil {
			forget()
			app, shutdown, err = nil, nil, fmt.Errorf("registry: distribution refuses its configuration: %v", p)
		}
	}()
	cfg := &configuration.Configuration{
		Storage: configuration.Storage{
			driverName:    configuration.Parameters{"uploads": u},
			"redirect":    configuration.Parameters{"disable": true},
			"delete":      configuration.Parameters{"enabled": true},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
		},
	}
	cfg.Catalog.MaxEntries = 1000
	cfg.HTTP.Secret = string(secret)
	cfg.HTTP.RelativeURLs = true
	cfg.Validation.Manifests.URLs.Allow = []string{".*"}
	cfg.Validation.Manifests.Indexes.Platforms = "none"
	a := handlers.NewApp(context.Background(), cfg)
	return a, func() error {
		forget()
		return a.Shutdown()
	}, nil
}

// distribution logs through the one standard logger of logrus, so the process has one hook and the newest registry's
// log gets the lines.
var (
	logrusOnce sync.Once
	logrusTo   atomic.Pointer[slog.Logger]
)

func bendLogrus(log *slog.Logger) (forget func()) {
	logrusOnce.Do(func() {
		logrus.SetOutput(io.Discard)
		logrus.SetLevel(logrus.InfoLevel)
		logrus.AddHook(logrusHook{})
	})
	logrusTo.Store(log)
	return func() { logrusTo.CompareAndSwap(log, nil) }
}

type logrusHook struct{}

func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire passes a line on. distribution says each 4xx as an error, and each request as information: both are for
// debugging here, where the edge has its own line for a request.
func (logrusHook) Fire(e *logrus.Entry) error {
	log := logrusTo.Load()
	if log == nil {
		return nil
	}
	level := slog.LevelDebug
	switch {
	case strings.HasPrefix(e.Message, "response completed"), strings.HasPrefix(e.Message, "client disconnected"),
		strings.HasPrefix(e.Message, "Image index completeness"), strings.HasPrefix(e.Message, "error resolving upload"),
		strings.HasPrefix(e.Message, "upload resumed at wrong offset"), strings.HasPrefix(e.Message, "unknown error reading request payload"):
	case e.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case e.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	}
	if !log.Enabled(context.Background(), level) {
		return nil
	}
	attrs := make([]any, 0, len(e.Data)*2)
	for k, v := range e.Data {
		if k == "vars.uuid" || k == "vars.name" || strings.HasPrefix(k, "err") {
			attrs = append(attrs, k, v)
		}
	}
	log.Log(context.Background(), level, "distribution: "+e.Message, attrs...)
	return nil
}

// faults is what one request that distribution serves leaves behind (request-scoped: it travels with the request's
// context through distribution).
type faults struct {
	user string // who asks

	mu sync.Mutex
	// err is what went wrong in the tree: distribution answers all of it with 500 and the internal text, so the front
	// answers instead.
	err error
	// writers are the uploads that were opened: distribution forgets to close one whose address is of another moment,
	// and nobody could write it any more.
	writers []*uploadWriter
}

type faultsKey struct{}

func noteFault(ctx context.Context, err error) {
	if f, ok := ctx.Value(faultsKey{}).(*faults); ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.err == nil {
			f.err = err
		}
	}
}

// userIn is whose request ctx is of, "" if that is not known.
func userIn(ctx context.Context) string {
	if f, ok := ctx.Value(faultsKey{}).(*faults); ok {
		return f.user
	}
	return ""
}

func noteWriter(ctx context.Context, w *uploadWriter) {
	if f, ok := ctx.Value(faultsKey{}).(*faults); ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.writers = append(f.writers, w)
	}
}

// close closes what distribution left open.
func (f *faults) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, w := range f.writers {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

// serveApp lets distribution answer the request for one of its upload paths, under the canonical name, and turns the
// answer back into the name that the client used.
func (r *Registry) serveApp(w http.ResponseWriter, req *http.Request, rt route) {
	f := &faults{user: r.userOf(req)}
	body := &bodyReader{ReadCloser: req.Body}
	in := req.Clone(context.WithValue(req.Context(), faultsKey{}, f))
	in.URL.Path, in.URL.RawPath = "/v2/"+rt.repo+"/blobs/uploads/"+rt.upload, ""
	q := url.Values{}
	if s := req.URL.Query().Get("_state"); s != "" {
		q.Set("_state", s)
	}
	in.URL.RawQuery = q.Encode()
	in.RequestURI = in.URL.RequestURI()
	in.Body = body
	// The range and the type were looked at. With the type of a form, distribution would take the body for one.
	in.Header.Set("Content-Type", "application/octet-stream")
	for _, h := range []string{"Content-Range", "Authorization", "Forwarded", "X-Forwarded-Proto", "X-Forwarded-Host",
		"X-Forwarded-Port", "X-Forwarded-Prefix"} {
		in.Header.Del(h)
	}
	aw := &appWriter{ResponseWriter: w, r: r, req: req, rt: rt, faults: f, body: body}
	r.app.ServeHTTP(aw, in)
	if err := f.close(); err != nil {
		r.log.Warn("putting an upload aside", "upload", rt.upload, "error", err)
	}
	if !aw.wrote {
		aw.WriteHeader(http.StatusOK)
	}
	aw.refuse()
}

// appWriter rewrites what distribution answers.
type appWriter struct {
	http.ResponseWriter
	r      *Registry
	req    *http.Request
	rt     route
	faults *faults
	body   *bodyReader
	wrote  bool
	mute   bool // what follows is the body of an answer that was replaced
	status int  // of a refusal, whose body is in said
	said   []byte
}

// maxSaid bounds what is read of a refusal of distribution's, in bytes.
const maxSaid = 16 << 10

// refuse ends a refusal of distribution's, whose reason is not where clients look for it: in the message.
func (w *appWriter) refuse() {
	if w.status == 0 {
		return
	}
	var body struct {
		Errors []struct {
			Code, Message string
			Detail        any
		}
	}
	e := &apiError{status: w.status, code: errUploadInvalid.code, message: errUploadInvalid.message}
	if json.Unmarshal(w.said, &body) == nil && len(body.Errors) > 0 {
		e.code, e.message = body.Errors[0].Code, body.Errors[0].Message
		if why, ok := body.Errors[0].Detail.(string); ok && why != "" {
			e = e.with(why)
		}
	}
	switch {
	case e.code == errUploadInvalid.code:
		e = e.with("_state is not what the registry gave for this upload: send each request to the Location of the answer before")
	case e.status == http.StatusRequestedRangeNotSatisfiable:
		e = errRangeInvalid.with("the upload has grown since: send each request to the Location of the answer before")
	}
	w.Header().Del("Content-Length")
	writeError(w.ResponseWriter, w.req, e)
}

func (w *appWriter) WriteHeader(status int) {
	if w.wrote {
		return
	}
	w.wrote = true
	h := w.Header()
	h.Set("Docker-Distribution-Api-Version", "registry/2.0") // once: distribution adds its own
	if loc := h.Get("Location"); loc != "" {
		h.Set("Location", w.r.onNode(w.rt.outward(loc)))
	}
	if status >= 500 {
		w.faults.mu.Lock()
		err := w.faults.err
		w.faults.mu.Unlock()
		if w.body.err != nil {
			err = errShortBody
		} else if err == nil {
			err = errors.New("distribution answered an upload with an internal error")
		}
		w.mute = true
		h.Del("Content-Length")
		writeError(w.ResponseWriter, w.req, w.r.answer(err, errUploadUnknown))
		return
	}
	if status >= 400 {
		w.status = status
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *appWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if w.status != 0 {
		w.said = append(w.said, p[:min(len(p), maxSaid-len(w.said))]...)
	}
	if w.mute || w.status != 0 {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// nodeParam is the query parameter of an upload session's address that names its node.
const nodeParam = "_node"

func (r *Registry) onNode(loc string) string {
	if r.cfg.Node == "" || !strings.Contains(loc, "/blobs/uploads/") {
		return loc
	}
	sep := "?"
	if strings.Contains(loc, "?") {
		sep = "&"
	}
	return loc + sep + nodeParam + "=" + url.QueryEscape(r.cfg.Node)
}

// outward turns a path below the canonical repository into the one that the client must ask for.
func (rt route) outward(loc string) string {
	rest, ok := strings.CutPrefix(loc, "/v2/"+rt.repo+"/")
	if !ok {
		return loc
	}
	loc = "/v2/" + rt.asked + "/" + rest
	if rt.ns != "" {
		sep := "?"
		if strings.Contains(loc, "?") {
			sep = "&"
		}
		loc += sep + "ns=" + url.QueryEscape(rt.ns)
	}
	return loc
}

// bodyReader remembers that reading a request's body failed, which is the client's doing and not the tree's.
type bodyReader struct {
	io.ReadCloser
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

var errShortBody = errSizeInvalid.with("the body ended early")
