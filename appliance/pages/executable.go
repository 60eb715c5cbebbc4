package pages

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"casemate/appliance/doctor"
	"casemate/appliance/reply"
	"casemate/cluster/byterange"
)

// Executable serves this program's executable as a download: GET /casemate, with which a node runs casemate doctor.
// The file is opened once, so an upgrade on disk does not change what a running daemon serves, and a resumed download
// continues with the same bytes or fails (ETag, If-Range).
type Executable struct {
	file *os.File // nil: it cannot be read
	size int64
	mod  time.Time
	sum  func() (string, error) // SHA-256 in hex; the first call reads the file
}

// OpenExecutable never fails: a daemon whose executable cannot be read serves everything else.
func OpenExecutable() *Executable {
	b := &Executable{}
	f, err := os.Open("/proc/self/exe") // the running file, even if its path was replaced since
	if err != nil {
		var name string
		if name, err = os.Executable(); err == nil {
			f, err = os.Open(name)
		}
	}
	if err == nil {
		b.file = f
		var info os.FileInfo
		if info, err = f.Stat(); err == nil {
			b.size, b.mod = info.Size(), info.ModTime()
		}
	}
	b.sum = sync.OnceValues(func() (string, error) {
		if err != nil {
			return "", fmt.Errorf("the executable cannot be read: %w", err)
		}
		h := sha256.New()
		if _, err := io.Copy(h, b.reader()); err != nil {
			return "", fmt.Errorf("the executable cannot be read: %w", err)
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	})
	return b
}

// reader reads by position, so that it supports concurrent requests.
func (b *Executable) reader() *io.SectionReader { return io.NewSectionReader(b.file, 0, b.size) }

// Close closes the file.
func (b *Executable) Close() error {
	if b.file == nil {
		return nil
	}
	return b.file.Close()
}

// ServeHTTP implements http.Handler.
func (b *Executable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sum, err := b.sum()
	if err != nil {
		reply.Refuse(w, r, http.StatusServiceUnavailable, "", "the executable cannot be read")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("ETag", `"`+sum+`"`)
	http.ServeContent(w, byterange.Bound(r, b.size), "", b.mod, b.reader())
}

// Info returns what "casemate doctor --line" needs.
func (b *Executable) Info() (doctor.Executable, error) {
	sum, err := b.sum()
	if err != nil {
		return doctor.Executable{}, err
	}
	return doctor.Executable{SHA256: sum, Size: b.size, OS: runtime.GOOS, Arch: runtime.GOARCH}, nil
}
