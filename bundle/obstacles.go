package bundle

import (
	"fmt"
	"io/fs"
	"strings"
)

// Skipped is something in the inputs that is not imported.
type Skipped struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// NameErrors lists all names in the inputs that cannot be imported, because they are invalid or ambiguous.
type NameErrors struct {
	List []Skipped
	errs []error
}

func (e *NameErrors) Error() string {
	if len(e.errs) == 1 {
		return e.errs[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d names cannot be imported, --partial leaves them out:", len(e.errs))
	for _, err := range e.errs {
		b.WriteString("\n" + strings.TrimSuffix(err.Error(), ": "+fs.ErrInvalid.Error()))
	}
	return b.String()
}

// Unwrap returns the reasons.
func (e *NameErrors) Unwrap() []error { return e.errs }

// Add adds a name and the reason why it cannot be imported.
func (e *NameErrors) Add(name string, err error) {
	e.List = append(e.List, Skipped{name, strings.TrimSuffix(err.Error(), ": "+fs.ErrInvalid.Error())})
	e.errs = append(e.errs, err)
}

// Err returns e as an error, or nil if it is empty.
func (e *NameErrors) Err() error {
	if len(e.errs) == 0 {
		return nil
	}
	return e
}
