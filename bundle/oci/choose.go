package oci

import "encoding/json"

// Choose returns the children of the index m that belong to one of the platforms: those for it, those without a
// platform, and, if attestations is set, buildkit's attestations of these (https://github.com/moby/buildkit,
// docs/attestations/attestation-storage.md). raw is the index's document. Without platforms all children are chosen.
// sparse reports whether any was left out.
func Choose(m *Manifest, raw []byte, platforms []Platform, attestations bool) (chosen []Descriptor, sparse bool,
	err error) {
	if len(platforms) == 0 {
		return m.Children, false, nil
	}
	// Parsed again, because a manifest does not keep its annotations.
	var doc struct {
		Manifests []struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, false, err
	}
	taken := map[string]bool{}
	for _, d := range m.Children {
		if d.Platform.String() != "" && d.Platform.In(platforms) {
			taken[d.Digest] = true
		}
	}
	for i, d := range m.Children {
		about := doc.Manifests[i].Annotations["vnd.docker.reference.digest"]
		switch {
		case taken[d.Digest],
			d.Platform.String() == "" && about == "",
			about != "" && taken[about] && attestations:
			chosen = append(chosen, d)
		default:
			sparse = true
		}
	}
	return chosen, sparse, nil
}
