// Package usage marks mistakes in what an operator wrote, as opposed to what could not be done.
package usage

import "fmt"

// An Error is a mistake in what the operator wrote: a flag, the config, a setting. The command line ends with exit code
// 2 for it, and the admin API answers 400.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf is fmt.Errorf for a mistake of the operator.
func Errorf(format string, args ...any) error { return &Error{fmt.Errorf(format, args...)} }
