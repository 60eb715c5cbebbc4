package fileserver

import (
	"encoding/xml"
	"fmt"
	"strings"
	"testing"
)

const repomdText = `<?xml version="1.0"?><repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>7</revision>
<data type="primary"><timestamp>1700000000</timestamp></data>
<data type="filelists"><timestamp>1700000009.5</timestamp></data></repomd>`

// A publisher's metalink and mirrorlist are redirected to documents that name the origin itself with the right sums.
func TestMirrorsOfARepository(t *testing.T) {
	f := start(t)
	const repo = "https://files.test/9/BaseOS/x86_64/os/"
	f.put(t, repo+"repodata/repomd.xml", repomdText)
	f.redirects = map[string]string{
		"https://alias.test/metalink?repo=base-9&arch=x86_64":   repo + "repodata/repomd.xml.metalink",
		"https://alias.test/mirrorlist?repo=base-9&arch=x86_64": repo + "repodata/repomd.xml.mirrorlist",
	}
	for _, query := range []string{"repo=base-9&arch=x86_64", "repo=base-9&arch=x86_64&countme=2"} {
		for name, to := range map[string]string{"metalink": "metalink", "mirrorlist": "mirrorlist"} {
			r := f.origin("files.test", "/"+name+"?"+query)
			want(t, r, 302, "*")
			if got := r.Header.Get("Location"); got != repo+"repodata/repomd.xml."+to {
				t.Errorf("%s?%s leads to %s", name, query, got)
			}
		}
	}
	want(t, f.origin("files.test", "/metalink?repo=other&arch=x86_64"), 404, "*")
	want(t, f.origin("files.test", "/9/BaseOS/x86_64/os/repodata/repomd.xml.mirrorlist"), 200, repo+"\n")
	want(t, f.do(View{Origin: "files.test", Plain: true}, "GET", "/9/BaseOS/x86_64/os/repodata/repomd.xml.mirrorlist",
		nil), 200, strings.Replace(repo, "https", "http", 1)+"\n")

	var doc struct {
		File struct {
			Name      string `xml:"name,attr"`
			Timestamp int64  `xml:"timestamp"`
			Size      int    `xml:"size"`
			Hash      []struct {
				Type string `xml:"type,attr"`
				Sum  string `xml:",chardata"`
			} `xml:"verification>hash"`
			URL []string `xml:"resources>url"`
		} `xml:"files>file"`
	}
	r := f.origin("files.test", "/9/BaseOS/x86_64/os/repodata/repomd.xml.metalink")
	body := text(t, r)
	if err := xml.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	sums := sumsOf(repomdText)
	want256, want512 := "[{sha256 "+sums["SHA256"]+"}", "{sha512 "+sums["SHA512"]+"}]"
	if got := fmt.Sprint(doc.File.Hash); got != want256+" "+want512 || doc.File.Name != "repomd.xml" ||
		doc.File.Timestamp != 1700000009 || doc.File.Size != len(repomdText) || len(doc.File.URL) != 1 ||
		doc.File.URL[0] != repo+"repodata/repomd.xml" {
		t.Errorf("%+v\n%s", doc, body)
	}
	if info, luck, err := f.Resolve(t.Context(), "https://alias.test/metalink?repo=base-9&arch=x86_64"); err != nil ||
		info.Digest != "sha256:"+sumsOf(body)["SHA256"] || luck == "" {
		t.Error(info, luck, err)
	}
	f.put(t, repo+"repodata/repomd.xml.metalink", "the publisher's own") // goes before a generated one
	want(t, f.origin("files.test", "/9/BaseOS/x86_64/os/repodata/repomd.xml.metalink"), 200, "the publisher's own")
	want(t, f.origin("files.test", "/8/repodata/repomd.xml.metalink"), 404, "*")
	want(t, f.origin("files.test", "/9/BaseOS/x86_64/os/repomd.xml.metalink"), 404, "*")

	f.put(t, "https://files.test/bad/repodata/repomd.xml", "no XML")
	want(t, f.origin("files.test", "/bad/repodata/repomd.xml.metalink"), 200, "*")
}
