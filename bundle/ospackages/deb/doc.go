// Package deb reads repositories of Debian packages as apt does: sources, signed Release files, indices, dependencies;
// and says which of their files some packages need.
package deb
