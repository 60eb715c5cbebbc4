package reply

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestSentence(t *testing.T) {
	tree := func(err error) error {
		return &fs.PathError{Op: "stat", Path: "repositories/x/_manifests/tags/1/current/link", Err: err}
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("there is no user ops: %w", fs.ErrNotExist), "there is no user ops"},
		{fmt.Errorf("origin x is there: %w", fs.ErrExist), "origin x is there"},
		{fmt.Errorf("this is no join token: %w", fs.ErrInvalid), "this is no join token"},
		{fmt.Errorf("name must be short: %w", syscall.EINVAL), "name must be short"},
		{errors.New("the lists are wrong:\n  a:1: is no image\n  a:2: is no image\n"),
			"the lists are wrong: a:1: is no image; a:2: is no image"},
		{errors.Join(errors.New("one"), errors.New("other")), "one; other"},
		{fmt.Errorf("there is no leader: %w", syscall.EAGAIN), "there is no leader"},
		{fmt.Errorf("another one runs: %w", fmt.Errorf("it: %w", syscall.EINPROGRESS)), "another one runs: it"},
		{fmt.Errorf("the bytes differ: %w", fmt.Errorf("%w: %w", fs.ErrInvalid, syscall.EBADMSG)), "the bytes differ"},
		{fmt.Errorf("the disk's reserve is reached: %w", syscall.ENOSPC), "the disk's reserve is reached"},
		{fmt.Errorf("delete image x:1: %w", tree(fs.ErrNotExist)), "delete image x:1: it does not exist"},
		{fmt.Errorf("set x: %w", tree(fs.ErrExist)), "set x: it exists already"},
		{tree(fs.ErrNotExist), "it does not exist"},
		// What the operating system says is what went wrong.
		{&fs.PathError{Op: "open", Path: "images.list", Err: syscall.ENOENT},
			"there is no file or directory images.list"},
		{fmt.Errorf("--key x: %w", &fs.PathError{Op: "stat", Path: "x", Err: syscall.ENOENT}),
			"--key x: there is no file or directory x"},
		{&fs.PathError{Op: "open", Path: "images.list", Err: syscall.EACCES}, "images.list: permission denied"},
		{fmt.Errorf("config: %w", &fs.PathError{Op: "read", Path: "/etc", Err: syscall.EISDIR}),
			"config: /etc is a directory"},
		{&fs.PathError{Op: "open", Path: "f/x", Err: syscall.ENOTDIR}, "f/x: a part of this path is not a directory"},
		{&fs.PathError{Op: "read", Path: "f", Err: syscall.EIO}, "read f: input/output error"},
		{&fs.PathError{Op: "mkdir", Path: "a/b", Err: syscall.ENOENT}, "mkdir a/b: no such file or directory"},
		{&fs.PathError{Op: "write", Path: "b.tar", Err: syscall.ENOSPC}, "write b.tar: no space left on device"},
		{&os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.EEXIST}, "rename a b: file exists"},
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EINVAL)},
			"dial tcp: connect: invalid argument"},
		{errors.Join(errors.New("one"), errors.New("two")), "one; two"},
	} {
		if got := Sentence(c.err); got != c.want {
			t.Errorf("%v: got %q, want %q", c.err, got, c.want)
		}
	}
}
