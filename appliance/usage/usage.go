// Package usage marks errors in an operator's input, as opposed to operations that failed.
package usage

import "fmt"

// An Error is an error in an operator's input: a flag, the config, a setting. The command line exits with code 2 for
// it, and the admin API answers 400.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf is fmt.Errorf for an error in an operator's input.
func Errorf(format string, args ...any) error { return &Error{fmt.Errorf(format, args...)} }
