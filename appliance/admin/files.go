package admin

import (
	"net/http"
	"time"

	"casemate/appliance/access"
	"casemate/fileserver"
)

// fileRoutes serves files.
func (a *API) fileRoutes(on *routes) {
	on.pages("GET /v1/files", to(access.List).toAnyone(), a.getFiles)
	on.json("GET /v1/files/stat", to(access.List).on(a.file).toAnyone(), func(r *http.Request) (any, error) {
		i, err := a.Files.Stat(r.URL.Query().Get("url"))
		return File{i.URL, i.Digest, i.Size, i.Time}, err
	})
	on.stream("GET /v1/files/content", to(access.Pull), a.getFileContent)
	on.json("PUT /v1/files", to(access.Push).on(a.file), func(r *http.Request) (any, error) {
		q := r.URL.Query()
		i, err := a.Files.Put(r.Context(), q.Get("url"), r.Body, q.Get("digest"))
		if err != nil {
			return nil, err
		}
		return File{i.URL, i.Digest, i.Size, i.Time}, nil
	})
	on.removes("DELETE /v1/files", to(access.Delete).on(a.file), a.fileToRemove, func(r *http.Request) (any, error) {
		return nil, a.Files.Delete(r.Context(), r.URL.Query().Get("url"))
	})
}

// fileToRemove lists the file that a request would delete.
func (a *API) fileToRemove(r *http.Request) (*Removal, error) {
	i, err := a.Files.Removable(r.URL.Query().Get("url"))
	if err != nil {
		return nil, err
	}
	out := &Removal{}
	out.add("file", i.URL, i.Size)
	return out, nil
}

type File struct {
	URL    string    `json:"url"`
	Digest string    `json:"digest"`
	Size   int64     `json:"size"`
	Time   time.Time `json:"time"`
}

func (a *API) getFiles(r *http.Request, p page) (pagedAnswer, error) {
	files := a.Files.ListAfter(r.Context(), r.URL.Query().Get("prefix"), p.after)
	return pagedAnswer{list: listOf(files, func(i fileserver.Info) (any, string, bool) {
		return File{i.URL, i.Digest, i.Size, i.Time}, i.URL, true
	})}, nil
}

// getFileContent sends what a node gets for a URL. It does not record a miss.
func (a *API) getFileContent(w http.ResponseWriter, r *http.Request) {
	content, info, err := a.Files.Open(r.Context(), r.FormValue("url"))
	if err != nil {
		a.adminError(w, r, err)
		return
	}
	defer content.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Location", info.URL)
	w.Header().Set("ETag", `"`+info.Digest+`"`)
	http.ServeContent(w, r, "", info.Time, content)
}

// file is the object of a request about url.
func (a *API) file(r *http.Request) access.Object {
	url := r.URL.Query().Get("url")
	if key, err := a.Files.Key(url); err == nil {
		url = fileserver.URL(key)
	}
	return access.File(url)
}
