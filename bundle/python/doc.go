// Package python knows the packages of Python: their names, what they say of themselves, indices of them, and files of
// requirements with hashes.
//
// It promises:
//
//   - It never resolves: what a requirements file pins is what is collected.
//   - Everything that it reads is bounded, and invalid input is an error that names it.
package python
