package bundle

import (
	"crypto/ed25519"
	"errors"
)

// ErrStop, returned by ReadOptions.Plan, ends a Read without error before anything is put: what was planned is all that
// was wanted.
var ErrStop = errors.New("stop before reading")

// ReadOptions say how inputs are read. The zero value reads everything and trusts every signature that is right.
type ReadOptions struct {
	// Keys are trusted: when there are any, a bundle that is signed by none of them is refused, and so is what is no
	// bundle.
	Keys []ed25519.PublicKey
	// Repository names the images that name none themselves ("registry.k8s.io/pause"); an input with such images is
	// refused without it.
	Repository string
	// Partial leaves out names that cannot be taken and says so in Contents.Refused; without it they are an *Obstacles
	// that lists them all.
	Partial bool
	// Plan is called once, after signatures were verified and before the first Put. c has what is known by then: for a
	// bundle all that it brings, for everything else Index is nil. need is how many bytes will be Put at the most; what
	// is compressed counts with its own size, because only reading it tells more, and Kind is "" then; a pipe makes
	// need -1. Its error ends the reading and is returned; ErrStop returns the Contents without error.
	Plan func(c *Contents, need int64) error
	// Progress is told, now and then and from any goroutine, how many bytes of the inputs are done; total is -1 when it
	// is not known (pipes, directories).
	Progress func(done, total int64)
}
