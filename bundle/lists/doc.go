// Package lists reads lists of images, files and charts, Kubernetes manifests and checksums, and returns what they
// name. The package kubespray below it computes the lists of a checkout of Kubespray.
//
// It promises: names are normalised as Docker does; every bad line is reported with its file and line before anything
// is fetched; and what cannot be interpreted is an error, never a missing entry.
package lists
