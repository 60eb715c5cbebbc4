package admin

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"strings"
	"time"
	"unicode"

	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/appliance/reply"
	"casemate/appliance/usage"
	"casemate/bundle"
)

// Bounds of a form.
const (
	maxFormFiles  = 256
	maxFormFields = 64
	maxFormField  = 4096 // bytes of a value
	maxFormName   = 4096 // bytes of a file's name
)

// FormImport is what became of one file of a form.
type FormImport struct {
	File string `json:"file"`
	// Status is the HTTP status that the import of this file alone would have had, with an error or a result. Both are
	// absent for a list of checksums, which is not read.
	Status int             `json:"status"`
	Error  string          `json:"error,omitempty"`
	Result *content.Result `json:"result,omitempty"`
}

// postForm is POST /v1/imports/form: multipart/form-data (RFC 7578) as a plain HTML form sends it. Each file is an
// import of its own, in the order of the form, and is read while it arrives, like a pipe: nothing is spooled. Parts of
// a split bundle come one by one, the last one makes it appear. The fields come before the files: name, hold, partial,
// dry_run, repository, python_index, and key any number of times.
func (a *API) postForm(r *http.Request) (any, error) {
	body := &formBody{ReadCloser: r.Body, length: r.ContentLength}
	r.Body = body
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, usage.Errorf("files are sent as multipart/form-data: %w", err)
	}
	var q handover.Request
	list := []FormImport{}
	for fields := 0; ; {
		p, err := parts.NextPart()
		switch {
		case errors.Is(err, io.EOF) && len(list) == 0:
			return nil, usage.Errorf("the form has no file: choose one or several")
		case errors.Is(err, io.EOF):
			return list, nil
		case err != nil && len(list) == 0:
			return nil, usage.Errorf("the form cannot be read: %w", err)
		case err != nil:
			return append(list, FormImport{Status: http.StatusBadRequest,
				Error: reply.Sentence(usage.Errorf("the form has not arrived whole: %w", err))}), nil
		}
		if _, isFile := formFileName(p); !isFile {
			if fields++; fields > maxFormFields {
				return nil, usage.Errorf("a form has at most %d fields", maxFormFields)
			}
			if len(list) > 0 {
				late := usage.Errorf("the field %.40q comes after the files, and was not considered: fields come first",
					p.FormName())
				return append(list, FormImport{Status: http.StatusBadRequest, Error: reply.Sentence(late)}), nil
			}
			if err := formField(&q, p); err != nil {
				return nil, err
			}
			continue
		}
		if len(list) == maxFormFiles {
			return append(list, FormImport{Status: http.StatusBadRequest, Error: reply.Sentence(usage.Errorf(
				"a form has at most %d files: send the others with another one", maxFormFiles))}), nil
		}
		one, err := a.importFormFile(r, q, p, body)
		if err != nil && len(list) == 0 {
			return nil, err // of the fields
		}
		if one != nil {
			list = append(list, *one)
		}
	}
}

// formFileName returns the name of a file, "" if the form sends none for its field; false for a field that is no file.
func formFileName(p *multipart.Part) (string, bool) {
	return p.FileName(), p.FileName() != "" || strings.Contains(p.Header.Get("Content-Disposition"), "filename")
}

// formField reads a field into the request.
func formField(q *handover.Request, p *multipart.Part) error {
	data, err := io.ReadAll(io.LimitReader(p, maxFormField+1))
	name, value := p.FormName(), strings.TrimSpace(string(data))
	switch {
	case err != nil:
		return usage.Errorf("the form cannot be read: %w", err)
	case len(data) > maxFormField:
		return usage.Errorf("the field %.40q has more than %d bytes", name, maxFormField)
	}
	flag := func(to *bool) error {
		switch value {
		case "on", "true", "1":
			*to = true
		case "", "false", "0", "off":
		default:
			return usage.Errorf("the field %s is on or empty, got %.40q", name, value)
		}
		return nil
	}
	switch name {
	case "name":
		q.Name = value
	case "repository":
		q.Repository = value
	case "python_index":
		q.PythonIndex = value
	case "key":
		if value != "" {
			q.Keys = append(q.Keys, value)
		}
	case "hold":
		return flag(&q.Hold)
	case "partial":
		return flag(&q.Partial)
	case "dry_run":
		return flag(&q.DryRun)
	default:
		return usage.Errorf("the form has the unknown field %.40q; it may have name, hold, partial, dry_run, "+
			"repository, python_index, key, and then files", name)
	}
	return nil
}

// importFormFile imports one file of a form. An error is about the fields; nil without one: no file was chosen.
func (a *API) importFormFile(r *http.Request, q handover.Request, p *multipart.Part, body *formBody) (*FormImport,
	error) {
	name, _ := formFileName(p)
	from := bufio.NewReader(p)
	head, err := from.Peek(512)
	if name == "" && len(head) == 0 && errors.Is(err, io.EOF) {
		return nil, nil
	}
	out := &FormImport{File: name, Status: http.StatusOK}
	if bundle.IsChecksums(name, head) {
		return out, nil
	}
	run, err := a.newImport(q)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*FormImport, error) {
		out.Status, out.Error = importStatus(err), reply.Sentence(err)
		return out, nil
	}
	if name == "" || len(name) > maxFormName || strings.ContainsFunc(name, unicode.IsControl) {
		out.File = ""
		return fail(usage.Errorf("a file's name has 1 to %d bytes and no control characters, got %.100q",
			maxFormName, name))
	}
	run.Wait = true
	run.Inputs = []bundle.Input{{Name: name, File: &formFile{name, body.left(), from}}}
	if out.Result, err = a.Imports.Import(r.Context(), run); err != nil {
		return fail(err)
	}
	return out, nil
}

// formBody counts what has arrived of a form.
type formBody struct {
	io.ReadCloser
	length, read int64 // length: -1 if it is not known
}

func (b *formBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	return n, err
}

// left returns how many bytes are to come at the most, 0 if that is not known.
func (b *formBody) left() int64 { return max(0, b.length-b.read) }

// formFile is a file of a form, to be read once, like a pipe. Its size is what it has at the most: if that does not fit
// here, the import is refused before it has arrived.
type formFile struct {
	name string
	most int64
	r    io.Reader
}

func (f *formFile) Read(p []byte) (int, error) { return f.r.Read(p) }
func (f *formFile) Close() error               { return nil }
func (f *formFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *formFile) Name() string               { return f.name }
func (f *formFile) Size() int64                { return f.most }
func (f *formFile) Mode() fs.FileMode          { return fs.ModeNamedPipe | 0o400 }
func (f *formFile) ModTime() time.Time         { return time.Time{} }
func (f *formFile) IsDir() bool                { return false }
func (f *formFile) Sys() any                   { return nil }
