// Package collect fetches what lists name into a cache, and returns the index of it.
//
// It promises: everything is tried, and every failure is reported with the line that requested it; what was fetched is
// not fetched again; and an optional or attached thing never makes a name fail.
package collect
