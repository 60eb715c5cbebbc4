package bundle

import (
	"crypto/ed25519"
	"errors"
)

// ErrStop, returned by ReadOptions.Plan, ends a Read without error before anything is put: only the plan was wanted.
var ErrStop = errors.New("stop before reading")

// ReadOptions configure reading. The zero value reads everything and accepts every correct signature.
type ReadOptions struct {
	// Keys are the trusted keys: if there are any, an input that is not a bundle signed by one of them is refused.
	Keys []ed25519.PublicKey
	// Repository names the images that have no name ("registry.k8s.io/pause"); without it, an input with such images is
	// refused.
	Repository string
	// PythonIndex is the index whose packages Python packages in the inputs are, with a slash at the end
	// ("https://HOST/simple/"); without it, an input with such packages is refused.
	PythonIndex string
	// Partial leaves out names that cannot be imported and lists them in Contents.Refused; without it they are a
	// *NameErrors.
	Partial bool
	// Plan is called once, after signatures were verified and before the first Put. c has what is known by then: all
	// contents of a bundle; for everything else Index is nil. need is the maximum number of bytes that will be put;
	// compressed input counts with its own size, because only reading it tells more, and Kind is "" then; a pipe makes
	// need -1. An error ends the reading and is returned; ErrStop returns the Contents without error.
	Plan func(c *Contents, need int64) error
	// Progress is called occasionally, from any goroutine, with the bytes of the inputs that are done; total is -1 if
	// it is not known (pipes, directories).
	Progress func(done, total int64)
}
