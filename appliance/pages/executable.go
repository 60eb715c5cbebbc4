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

// Executable is this program's executable as a file to download: GET /casemate, with which a node runs casemate doctor.
// It is opened once, so an upgrade on the disk changes nothing of what a running daemon gives out, and a download that
// goes on later goes on with the same bytes or not at all (ETag, If-Range).
type Executable struct {
	file *os.File // nil: it cannot be read
	size int64
	mod  time.Time
	sum  func() (string, error) // SHA-256 in hex; the first call reads the file
}

// OpenExecutable never fails: a daemon whose executable cannot be read serves everything else.
func OpenExecutable() *Executable {
	b := &Executable{}
	f, err := os.Open("/proc/self/exe") // the file that runs, even if another has its name by now
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

// reader reads by position, so that many may at once.
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

// Info is what "casemate doctor --line" has to know.
func (b *Executable) Info() (doctor.Executable, error) {
	sum, err := b.sum()
	if err != nil {
		return doctor.Executable{}, err
	}
	return doctor.Executable{SHA256: sum, Size: b.size, OS: runtime.GOOS, Arch: runtime.GOARCH}, nil
}
