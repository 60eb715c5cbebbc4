// Package jinja evaluates the part of Jinja that Kubespray's variables use: expressions, inline and block conditions,
// and the filters and tests in filters.go and tests.go. It has native values and dictionaries that keep their order,
// because "(table | dict2items)[0].key" is how Kubespray selects the newest version. Everything that it does not
// support is an error, never a guess.
//
// It was weighed against the library nikolalohinski/gonja, and stays: gonja's dictionaries are Go maps without an
// order,
// its context holds values while variables must be evaluated when they are used, and its results are texts while a
// variable may be a list, a number or a dictionary.
package jinja
