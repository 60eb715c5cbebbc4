package handover

import (
	"bytes"
	"context"
	"io/fs"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x1c{\"reply\":{\"id\":1,\"dir\":2}}  "))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readFrame(bytes.NewReader(b), maxAsk)
		if (m == nil) == (err == nil) {
			t.Errorf("%+v, %v", m, err)
		}
	})
}

// FuzzSession sends arbitrary bytes as a command, with a descriptor in the middle.
func FuzzSession(f *testing.F) {
	hello := `{"hello":{"inputs":[{"name":"x","dir":true}]}}`
	f.Add([]byte("\x00\x00\x00\x2f"+hello+" "), []byte(
		"\x00\x00\x00\x26{\"reply\":{\"id\":1,\"entry\":{\"mode\":0}}} "), true)
	f.Add([]byte("\x00\x00\x00\x2f"+hello+" "), []byte("\x00\x00\x00\x24{\"reply\":{\"id\":1},\"descriptors\":1}  "),
		true)
	f.Add([]byte("\x00\x00\x00\x2f"+hello+" "), []byte("\x00\x00\x06\x24{\"reply\":{\"id\":1},\"descriptors\":1}  "),
		true)
	f.Fuzz(func(t *testing.T, first, second []byte, withFile bool) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Skip()
		}
		conns := [2]*net.UnixConn{}
		for i, fd := range pair {
			file := os.NewFile(uintptr(fd), "pair")
			c, err := net.FileConn(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			conns[i] = c.(*net.UnixConn)
		}
		go func() {
			defer conns[1].Close()
			conns[1].Write(first)
			if withFile {
				null, _ := os.Open(os.Args[0])
				conns[1].WriteMsgUnix(second, unix.UnixRights(int(null.Fd())), nil)
				null.Close()
			} else {
				conns[1].Write(second)
			}
		}()
		s, err := newSession(context.Background(), conns[0], nil)
		if err != nil {
			return
		}
		for _, in := range s.Inputs() {
			if in.FS != nil {
				if file, err := in.FS.Open("."); err == nil {
					if d, ok := file.(fs.ReadDirFile); ok {
						d.ReadDir(10)
					}
					file.Close()
				}
			}
		}
		s.Finish(nil, nil, 0)
	})
}
