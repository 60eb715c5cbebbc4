package reply

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// classes are errors that stand at the end of a sentence for errors.Is alone: they tell a program which class of error
// it is, and people nothing.
var classes = []error{
	fs.ErrNotExist, fs.ErrExist, fs.ErrInvalid, fs.ErrPermission, syscall.EINVAL, syscall.EAGAIN, syscall.EINPROGRESS,
	syscall.EBADMSG, syscall.EIO, syscall.ENOSPC, syscall.ENOENT, syscall.EEXIST,
}

// Sentence is an error as people read it: without the classes behind it that say the same once more, and without names
// of the tree, which are ours. What the operating system says of a file or an address stays.
func Sentence(err error) string {
	s := err.Error()
	if e := (*fs.PathError)(nil); errors.As(err, &e) && !errors.As(e.Err, new(syscall.Errno)) {
		// The tree's: the operating system's have a number.
		what := e.Err.Error()
		switch {
		case errors.Is(e.Err, fs.ErrNotExist):
			what = "it does not exist"
		case errors.Is(e.Err, fs.ErrExist):
			what = "it exists already"
		}
		s = strings.Replace(s, e.Error(), what, 1)
	} else if !ofSystem(err) {
		for i := 0; i < len(classes); {
			if short := strings.TrimSuffix(s, ": "+classes[i].Error()); short != s {
				s, i = short, 0
			} else {
				i++
			}
		}
	}
	return oneLine(s)
}

// oneLine joins lines with semicolons, and with a space those that a heading introduces.
func oneLine(s string) string {
	var line strings.Builder
	for part := range strings.SplitSeq(s, "\n") {
		part = strings.TrimSpace(part)
		switch said := line.String(); {
		case part == "":
			continue
		case strings.HasSuffix(said, ":"):
			line.WriteString(" ")
		case said != "":
			line.WriteString("; ")
		}
		line.WriteString(part)
	}
	return line.String()
}

// ofSystem reports an error in which the operating system's number is what went wrong.
func ofSystem(err error) bool {
	return errors.As(err, new(*fs.PathError)) || errors.As(err, new(*os.LinkError)) || errors.As(err, new(*os.SyscallError)) ||
		errors.As(err, new(*net.OpError))
}
