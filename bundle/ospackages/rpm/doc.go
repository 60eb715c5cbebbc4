// Package rpm reads repositories of RPM packages as dnf does: .repo files, signed repomd.xml files, indices, modules,
// dependencies; and says which of their files some packages need.
package rpm
