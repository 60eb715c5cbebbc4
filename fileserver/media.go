package fileserver

import "strings"

// octets is the type of all other files: browsers save it and do not interpret it.
const octets = "application/octet-stream"

// mediaTypes maps the suffix of a file's name to its type. Longer suffixes come before shorter ones. Scripts are plain
// text on purpose: listings are opened in browsers, and no uploaded script must run there.
var mediaTypes = []struct{ suffix, media string }{
	{".tar.gz", "application/gzip"}, {".tgz", "application/gzip"}, {".gz", "application/gzip"},
	{".tar.xz", "application/x-xz"}, {".txz", "application/x-xz"}, {".xz", "application/x-xz"},
	{".tar.zst", "application/zstd"}, {".zst", "application/zstd"},
	{".tar.bz2", "application/x-bzip2"}, {".tbz2", "application/x-bzip2"}, {".bz2", "application/x-bzip2"},
	{".tar", "application/x-tar"}, {".zip", "application/zip"}, {".whl", "application/zip"},
	{".deb", "application/vnd.debian.binary-package"}, {".udeb", "application/vnd.debian.binary-package"},
	{".rpm", "application/x-rpm"},
	{".yaml", "application/yaml"}, {".yml", "application/yaml"}, // RFC 9512
	{".json", "application/json"}, {".xml", "application/xml"},
	{".html", "text/html; charset=utf-8"}, {".htm", "text/html; charset=utf-8"},
	{".svg", "image/svg+xml"}, {".png", "image/png"}, {".jpg", "image/jpeg"}, {".jpeg", "image/jpeg"},
	{".gif", "image/gif"},
	{".pdf", "application/pdf"},
}

// textEnds are the suffixes of names whose files are shown as plain text.
var textEnds = []string{
	".txt", ".text", ".log", ".md", ".sh", ".py", ".js", ".css", ".toml", ".conf", ".cfg", ".ini", ".list", ".repo",
	".service",
	".sha1", ".sha256", ".sha512", ".sha1sum", ".sha256sum", ".sha512sum", ".sum", ".md5", ".digests",
	".asc", ".pem", ".crt", ".key", ".pub",
}

// mediaType is the type that a file is served with, by the suffix of its name; the content is not considered.
func mediaType(name string) string {
	name = strings.ToLower(name)
	for _, m := range mediaTypes {
		if strings.HasSuffix(name, m.suffix) {
			return m.media
		}
	}
	for _, end := range textEnds {
		if strings.HasSuffix(name, end) {
			return "text/plain; charset=utf-8"
		}
	}
	return octets
}

// active reports whether a browser would run scripts inside this type; such files are served in a sandbox (CSP).
func active(media string) bool {
	return strings.HasPrefix(media, "text/html") || strings.Contains(media, "xml")
}
