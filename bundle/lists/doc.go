// Package lists reads what people have to say what they want: lists of images, files and charts, Kubernetes manifests,
// checksums, and a checkout of Kubespray with its inventory.
//
// It promises: names are normalised as Docker does; every bad line is named with its file and line before anything is
// done with the good ones; and what cannot be understood is an error, never a missing entry.
package lists
