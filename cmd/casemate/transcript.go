package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"casemate/appliance/rehearsal"
	"casemate/bundle"
	"casemate/bundle/format"
)

// readQuestions reads a transcript: that of a rehearsal's directory, a file of its own, or that of a bundle, of which
// several parts may be named.
func readQuestions(cmd *cobra.Command, names []string) ([]bundle.Question, error) {
	if st, err := os.Stat(names[0]); err == nil && st.IsDir() && len(names) == 1 {
		d, err := rehearsalAt(names[0])
		if err != nil {
			return nil, err
		}
		r, err := rehearsal.Read(d.record())
		if err != nil {
			return nil, err
		}
		return r.Questions(), nil
	}
	if len(names) == 1 {
		if text, ok, err := readTranscript(cmd, names[0]); err != nil {
			return nil, err
		} else if ok {
			questions, err := bundle.DecodeTranscript(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", names[0], err)
			}
			return questions, nil
		}
	}
	inputs, done, err := openBundle(cmd, names)
	if err != nil {
		return nil, err
	}
	defer done()
	contents, err := format.Inspect(inputs)
	if err != nil {
		if errors.Is(err, format.ErrDamaged) {
			err = differs{err}
		}
		return nil, err
	}
	if len(contents.Index.Questions) == 0 {
		return nil, errNoTranscript
	}
	return contents.Index.Questions, nil
}

var errNoTranscript = errors.New("the bundle has no transcript: make it with casemate bundle create --rehearsal")

// readTranscript reads a file if it is JSON, which no bundle is; - is standard input.
func readTranscript(cmd *cobra.Command, name string) (text []byte, ok bool, err error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, false, err
		}
		defer f.Close()
		in = f
	}
	begin := make([]byte, 1)
	if _, err := io.ReadFull(in, begin); err != nil || !bytes.Equal(begin, []byte("{")) {
		if f, isFile := in.(*os.File); isFile && name == "-" {
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return nil, false, usageError{errors.New("standard input is no transcript, and a bundle cannot be " +
					"read from a pipe here: name its file")}
			}
		}
		return nil, false, nil // openBundle says what it is
	}
	text, err = io.ReadAll(io.LimitReader(io.MultiReader(bytes.NewReader(begin), in), bundle.MaxTranscript+1))
	if err == nil && len(text) > bundle.MaxTranscript {
		err = fmt.Errorf("%s is larger than %d bytes: it is no transcript", name, bundle.MaxTranscript)
	}
	return text, true, err
}
