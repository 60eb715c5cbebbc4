package blob

import (
	"fmt"
	"io"
	"os"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	src, dir := os.Getenv("SRC"), os.Getenv("DST")
	if src == "" {
		t.Skip()
	}
	os.RemoveAll(dir)
	os.Mkdir(dir, 0o755)
	d, err := Open(dir, Options{Reserve: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	f, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, _ := d.Create("")
	begin := time.Now()
	var n int64
	if os.Getenv("PLAIN") != "" {
		n, err = io.Copy(struct{ io.Writer }{w}, struct{ io.Reader }{f})
	} else {
		n, err = io.Copy(w, f)
	}
	if err != nil {
		t.Fatal(err)
	}
	mid := time.Now()
	if _, _, err := w.Place(""); err != nil {
		t.Fatal(err)
	}
	all := time.Since(begin)
	fmt.Printf("%d bytes: readfrom %.2fs place %.2fs total %.2fs = %.0f MB/s\n", n, mid.Sub(begin).Seconds(), time.Since(mid).Seconds(), all.Seconds(), float64(n)/all.Seconds()/1e6)
	w.Done()
}
