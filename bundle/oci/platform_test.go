package oci

import "testing"

func TestAskedPlatforms(t *testing.T) {
	for _, tt := range []struct {
		asked, is string
		want      bool
	}{
		{"linux/amd64", "linux/amd64", true}, {"linux/x86_64", "linux/amd64", true}, {"Linux/AMD64", "linux/amd64",
			true}, {"linux/amd64", "linux/amd64/v3", true},
		{"linux/arm64/v8", "linux/arm64", true}, {"linux/arm64/v8", "linux/arm64/v8", true}, {"linux/arm64/v9",
			"linux/arm64", false}, {"linux/arm64", "linux/arm64/v8", true},
		{"linux/arm/v7", "linux/arm", false}, {"linux/arm/v7", "linux/arm/v6", false}, {"linux/arm", "linux/arm/v6",
			true},
		{"windows/amd64", "linux/amd64", false}, {"linux/arm64", "linux/amd64", false},
	} {
		a, err := ParsePlatform(tt.asked)
		if err != nil {
			t.Errorf("%s: %v", tt.asked, err)
			continue
		}
		is, err := ParsePlatform(tt.is)
		if err != nil {
			t.Fatal(err)
		}
		if got := is.In([]Platform{a}); got != tt.want {
			t.Errorf("asked for %s, is %s: got %v", tt.asked, tt.is, got)
		}
	}
	for _, bad := range []string{"", "linux", "linux/", "/amd64", "linux//v7", "a/b/c/d", "linux/amd64 ",
		"linux/a\nb"} {
		if p, err := ParsePlatform(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, p)
		}
	}
}
