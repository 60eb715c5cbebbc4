package credentials

import "testing"

// TestStrip: which parts of a URL are not written anywhere.
func TestStrip(t *testing.T) {
	for raw, want := range map[string]string{
		"https://a.example/f":                      "https://a.example/f",
		"https://a.example/f?":                     "https://a.example/f",
		"https://a.example/f?x=1&Y=%2f":            "https://a.example/f?x=1&Y=%2f",
		"https://a.example/f?x=1&token=s&y":        "https://a.example/f?x=1&y",
		"https://a.example/f?%74oken=s":            "https://a.example/f",
		"https://a.example/f?ACCESS_TOKEN=s#part":  "https://a.example/f#part",
		"https://a.example/f?se=1&sig=s&rsct=x":    "https://a.example/f",
		"https://u:p@a.example/f@1?password=x":     "https://a.example/f@1",
		"https://u:p@a.example":                    "https://a.example",
		"https://a.example/f?tokens=1&monkey=2":    "https://a.example/f?tokens=1&monkey=2",
		"https://a.example/team@v1/f?versionId=3":  "https://a.example/team@v1/f?versionId=3",
		"https://s3.example/f?X-Amz-Date=1&a=b":    "https://s3.example/f",
		"https://s3.example/f?versionId=3&x-goog-": "https://s3.example/f?versionId=3",
	} {
		if got := Strip(raw); got != want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}

// FuzzStrip: what is stripped once has nothing left to strip.
func FuzzStrip(f *testing.F) {
	f.Add("https://u:p@a.example/f?x=1&token=s#y")
	f.Fuzz(func(t *testing.T, raw string) {
		if once := Strip(raw); Strip(once) != once {
			t.Errorf("%q, then %q", once, Strip(once))
		}
	})
}
