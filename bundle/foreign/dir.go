package foreign

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// isSystemDir reports whether a directory at the top of a stick belongs to its file system or desktop; some of them are
// unreadable.
func isSystemDir(name string) bool {
	switch name {
	case "lost+found", "System Volume Information", "$RECYCLE.BIN", ".Trashes", ".Spotlight-V100", ".fseventsd":
		return true
	}
	return strings.HasPrefix(name, ".Trash-")
}

// scanDir walks a directory and reads no file. Symbolic links are followed only to targets inside.
func (r *Reader) scanDir(ctx context.Context, name string, dir fs.FS) (*archive, error) {
	a := newArchive(name)
	a.open = func(e *entry) (io.Reader, func() error, error) {
		f, err := dir.Open(e.name)
		if err != nil {
			return nil, nil, err
		}
		info, err := f.Stat()
		if err == nil && info.Size() != e.size {
			err = fmt.Errorf(
				"it has %d bytes and had %d a moment ago; nothing may write there during an import",
				info.Size(),
				e.size,
			)
		}
		if err != nil {
			f.Close()
			return nil, nil, err
		}
		return f, f.Close, nil
	}
	err := fs.WalkDir(dir, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.IsDir() && isSystemDir(p):
			a.skip(p, "belongs to the file system")
			return fs.SkipDir
		case d.IsDir():
			return r.count(0)
		case d.Type()&fs.ModeSymlink != 0:
			to, err := fs.ReadLink(dir, p)
			if err != nil {
				a.skip(p, "a link that cannot be read")
				return r.count(0)
			}
			link, ok := linkTarget(p, to)
			if !ok {
				a.skip(p, "a link that leads outside")
				return r.count(0)
			}
			return a.add(r, &entry{name: p, link: link})
		case !d.Type().IsRegular():
			a.skip(p, "not a regular file")
			return r.count(0)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return a.add(r, &entry{name: p, size: info.Size()})
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}
