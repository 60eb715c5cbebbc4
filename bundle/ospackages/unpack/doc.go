// Package unpack decompresses the indices of package repositories, by their names and within bounds.
package unpack
