package reply

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
)

// classes are errors at the end of a sentence for errors.Is only: they tell a program the class of the error, and
// users nothing.
var classes = []error{
	fs.ErrNotExist, fs.ErrExist, fs.ErrInvalid, fs.ErrPermission, syscall.EINVAL, syscall.EAGAIN, syscall.EINPROGRESS,
	syscall.EBADMSG, syscall.EIO, syscall.ENOSPC,
}

// Sentence formats an error for users: without the classes at its end, which repeat the sentence, and without names
// of the tree, which are internal. The operating system's errors about a file or an address stay.
func Sentence(err error) string {
	s := err.Error()
	if e := (*fs.PathError)(nil); errors.As(err, &e) && !errors.As(e.Err, new(syscall.Errno)) {
		// An error of the tree: the operating system's have a number.
		what := e.Err.Error()
		switch {
		case errors.Is(e.Err, fs.ErrNotExist):
			what = "it does not exist"
		case errors.Is(e.Err, fs.ErrExist):
			what = "it exists already"
		}
		s = strings.Replace(s, e.Error(), what, 1)
	} else if what := aboutFile(e); what != "" {
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

// aboutFile says what is wrong with a file that was to be read, without the call that found it; "" for any other error.
func aboutFile(e *fs.PathError) string {
	if e == nil || !slices.Contains([]string{"open", "openat", "stat", "lstat", "statat", "read"}, e.Op) {
		return ""
	}
	switch {
	case errors.Is(e.Err, syscall.ENOENT):
		return "there is no file or directory " + e.Path
	case errors.Is(e.Err, syscall.EISDIR):
		return e.Path + " is a directory"
	case errors.Is(e.Err, syscall.ENOTDIR):
		return e.Path + ": a part of this path is not a directory"
	case errors.Is(e.Err, fs.ErrPermission):
		return e.Path + ": permission denied"
	}
	return ""
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

// ofSystem reports an error whose cause has an error number of the operating system.
func ofSystem(err error) bool {
	return errors.As(err, new(*fs.PathError)) || errors.As(err, new(*os.LinkError)) ||
		errors.As(err, new(*os.SyscallError)) ||
		errors.As(err, new(*net.OpError))
}
