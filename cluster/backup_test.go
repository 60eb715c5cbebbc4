package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"casemate/cluster/archive"
	"casemate/cluster/blob"
	"casemate/cluster/blob/blobtest"
	"casemate/cluster/state"
	"casemate/cluster/tree"
)

// pass is the passphrase of the tests, with as little work as age allows.
var pass = BackupOptions{Passphrase: "correct horse battery", Work: 1}

func backup(t testing.TB, c *Cluster, opt BackupOptions) ([]byte, BackupReport) {
	t.Helper()
	var buf bytes.Buffer
	r, err := c.Backup(context.Background(), &buf, opt)
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), r
}

func restoreConfig(f *blobtest.FS, node string) Config {
	cfg := powerConfig(f)
	cfg.Node = node
	return cfg
}

func restoreWith(cfg Config, data []byte) (RestoreReport, error) {
	return Restore(context.Background(), cfg, bytes.NewReader(data), RestoreOptions{Passphrase: pass.Passphrase})
}

// full is a node with some of everything.
func full(t testing.TB, cfg Config) (c *Cluster, sealed []byte) {
	c = start(t, cfg)
	big, small := push(t, c.Tree(), bytes.Repeat([]byte("layer "), 500)), push(t, c.Tree(), []byte("manifest"))
	w, err := c.Tree().CreateBlob("")
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("by sha512"))
	long, err := w.Commit(context.Background(), sha512Of("by sha512"))
	if err != nil {
		t.Fatal(err)
	}
	if sealed, err = c.Seal([]byte("secret")); err != nil {
		t.Fatal(err)
	}
	update(t, c.Tree(), func(b Batch) {
		b.Link("image", small, big)
		b.Link("long", long)
		b.Put("secrets/a", sealed)
		b.Put("nodes/n1", []byte("10.0.0.1"))
	})
	update(t, c.Tree().As("bundle"), func(b Batch) { b.Put("settings/a", []byte("1")) })
	push(t, c.Tree(), nil) // empty, and kept by a pin only
	return c, sealed
}

func sha512Of(s string) string {
	h, digest := blob.NewSum("sha512:")
	io.WriteString(h, s)
	return digest()
}

// A backup of one node, restored as a node of another name, is the same tree in another cluster, which continues from
// there.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	from := testConfig(t, t.TempDir())
	from.format = eventFormat - 1 // a backup and a restore are events, which are compared in TestBreaksAreEvents
	c, sealed := full(t, from)
	data, r := backup(t, c, pass)
	if r.Blobs != 4 || r.Faults != 0 || r.Index != c.machine.view.Load().Index() || r.Bytes != 3017 {
		t.Errorf("report %+v", r)
	}
	want := snapshotBytes(t, c.machine.view.Load())
	cfg := testConfig(t, filepath.Join(t.TempDir(), "new", "data"))
	cfg.Node = "other"
	rep, err := restoreWith(cfg, data)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Blobs != 4 || rep.Missing != 0 || rep.Cluster == c.ID() || rep.From.Cluster != c.ID() ||
		rep.From.Node != "n1" {
		t.Errorf("report %+v", rep)
	}
	n := start(t, cfg)
	if n.ID() != rep.Cluster {
		t.Errorf("cluster %s, not %s", n.ID(), rep.Cluster)
	}
	if got := snapshotBytes(t, n.machine.view.Load()); !bytes.Equal(got, want) {
		t.Error("the restored state is another one")
	}
	if plain, err := n.Unseal(sealed); string(plain) != "secret" || err != nil {
		t.Errorf("Unseal: %q, %v", plain, err)
	}
	for name, text := range map[string]string{"image": "manifest", "long": "by sha512", "settings/a": "1"} {
		if got, err := n.Tree().ReadFile(name); string(got) != text || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if s, err := n.Scrub(context.Background()); err != nil || s.Faults != 0 || s.Blobs != 4 {
		t.Errorf("Scrub: %+v, %v", s, err)
	}
	update(t, n.Tree(), func(b Batch) { b.Put("after", nil) })
	if _, err := n.GC(context.Background(), false); err != nil {
		t.Error(err)
	}
	n.Close()
	n = start(t, cfg)
	if _, err := n.Tree().Stat("after"); err != nil {
		t.Error(err)
	}
	// And a backup of the restored node can be restored.
	again, _ := backup(t, n, pass)
	if _, err := restoreWith(testConfig(t, t.TempDir()), again); err != nil {
		t.Error(err)
	}
}

// What waits for an approval waits in the restored cluster too, with its bytes.
func TestBackupOfWhatWaits(t *testing.T) {
	t.Parallel()
	c := start(t, testConfig(t, t.TempDir()))
	big := push(t, c.Tree(), []byte("staged"))
	alice := tree.WithActor(context.Background(), tree.Actor{Name: "alice", How: "socket"})
	bob := tree.WithActor(context.Background(), tree.Actor{Name: "bob", How: "socket"})
	until := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	err := c.Tree().Hold(alice, Held{Claim: "waits", Content: big, Until: until},
		func(b Batch) error { As(b, "waits").Link("held", big); return nil },
		func(b Batch) error { RequireApproval(b, true); return nil })
	if err != nil {
		t.Fatal(err)
	}
	data, _ := backup(t, c, pass)
	cfg := testConfig(t, t.TempDir())
	if _, err := restoreWith(cfg, data); err != nil {
		t.Fatal(err)
	}
	n := start(t, cfg)
	held := n.Tree().Held()
	if len(held) != 1 || held[0].Maker != "alice" || !n.Tree().ApprovalRequired() {
		t.Fatalf("%+v waits for an approval", held)
	}
	diff, _, _ := n.Tree().HeldEffect(held[0].ID)
	approve := func(b Batch) error { Approve(b, held[0].ID, diff); return nil }
	if err := n.Tree().Update(alice, approve); !errors.Is(err, ErrApproval) {
		t.Errorf("the maker: %v", err)
	}
	if err := n.Tree().Update(bob, approve); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Tree().ReadFile("held"); string(got) != "staged" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestRestoreEdits(t *testing.T) {
	c, _ := full(t, testConfig(t, t.TempDir()))
	data, _ := backup(t, c, pass)
	cfg := testConfig(t, t.TempDir())
	_, err := Restore(context.Background(), cfg, bytes.NewReader(data),
		RestoreOptions{Passphrase: pass.Passphrase, Edit: func(b Batch) error {
			b.Remove("nodes")
			b.Put("nodes/n2", nil)
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, cfg)
	if list, err := n.Tree().ReadDir("nodes"); err != nil || len(list) != 1 || list[0].Name() != "n2" {
		t.Errorf("%v, %v", list, err)
	}
}

func TestBackupNoBlobs(t *testing.T) {
	c, _ := full(t, testConfig(t, t.TempDir()))
	opt := pass
	opt.NoBlobs = true
	data, r := backup(t, c, opt)
	if r.Blobs != 0 || !r.NoBlobs || bytes.Contains(data, []byte("layer layer")) {
		t.Errorf("report %+v", r)
	}
	cfg := testConfig(t, t.TempDir())
	rep, err := restoreWith(cfg, data)
	if err != nil || rep.Missing != 4 || !rep.NoBlobs {
		t.Fatalf("%+v, %v", rep, err)
	}
	n := start(t, cfg)
	if s, err := n.Scrub(context.Background()); err != nil || len(s.Missing) != 4 {
		t.Errorf("Scrub: %+v, %v", s, err)
	}
	push(t, n.Tree(), []byte("manifest"))
	if got, err := n.Tree().ReadFile("image"); string(got) != "manifest" || err != nil {
		t.Errorf("after it was pushed again: %q, %v", got, err)
	}
}

// Rot and loss are detected and reported while the backup is written, and are the same in the restored cluster; the
// rest is intact.
func TestBackupFindsRot(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	c := start(t, cfg)
	path := func(d string) string { return filepath.Join(cfg.Dir, "blobs", "sha256", d[7:9], d[7:]) }
	good, rotten, lost := push(t, c.Tree(), []byte("good")), push(t, c.Tree(), []byte("rotten")),
		push(t, c.Tree(), []byte("lost"))
	short, long := push(t, c.Tree(), []byte("short")), push(t, c.Tree(), []byte("long"))
	for d, text := range map[string]string{rotten: "rottem", short: "s", long: "longer"} {
		if err := os.WriteFile(path(d), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(path(lost)); err != nil {
		t.Fatal(err)
	}
	data, r := backup(t, c, pass)
	if r.Blobs != 1 || len(r.Damaged) != 3 || len(r.Missing) != 1 || r.Faults != 4 || r.Missing[0] != lost {
		t.Fatalf("report %+v", r)
	}
	to := testConfig(t, t.TempDir())
	rep, err := restoreWith(to, data)
	if err != nil || rep.Blobs != 1 || rep.Missing != 4 {
		t.Fatalf("%+v, %v", rep, err)
	}
	n := start(t, to)
	if s, err := n.Scrub(context.Background()); err != nil || len(s.Missing) != 4 {
		t.Errorf("Scrub: %+v, %v", s, err)
	}
	if size, err := n.blobs.Stat(good); size != 4 || err != nil {
		t.Errorf("the good one: %d, %v", size, err)
	}
}

// writerFunc is a writer that does something in between.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Content that is removed and collected while a backup is written is in the backup, and writes are not delayed.
func TestBackupBesideWritesAndCollection(t *testing.T) {
	c, _ := full(t, testConfig(t, t.TempDir()))
	var buf bytes.Buffer
	once := false
	w := writerFunc(func(p []byte) (int, error) {
		if !once {
			once = true
			update(t, c.Tree(), func(b Batch) { b.Remove("image"); b.Put("new", nil) })
			if r, err := c.GCNow(context.Background(), false); err != nil || r.Blobs != 3 || r.Removed != 0 {
				t.Errorf("GCNow: %+v, %v", r, err)
			}
		}
		return buf.Write(p)
	})
	if r, err := c.Backup(context.Background(), w, pass); err != nil || r.Faults != 0 || r.Blobs != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	cfg := testConfig(t, t.TempDir())
	if rep, err := restoreWith(cfg, buf.Bytes()); err != nil || rep.Missing != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if r, err := c.GC(context.Background(), false); err != nil {
		t.Errorf("GC after it: %+v, %v", r, err)
	}
	for e, err := range c.blobs.Scan() { // whether GC or the sweeper was first
		d, perr := state.ParseDigest(e.Digest)
		if _, known := c.machine.view.Load().Blob(d); err != nil || perr != nil || !known {
			t.Errorf("still there after GC: %s, %v, %v", e.Digest, err, perr)
		}
	}
	if got, err := start(t, cfg).Tree().ReadFile("image"); string(got) != "manifest" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBackupWithoutAMajority(t *testing.T) {
	f, _ := lonely(t, 9)
	c := start(t, powerConfig(f))
	data, r := backup(t, c, pass)
	if r.Faults != 0 || r.Blobs != 1 {
		t.Errorf("%+v", r)
	}
	n := blobtest.New(1)
	if _, err := restoreWith(restoreConfig(n, "n9"), data); err != nil {
		t.Fatal(err)
	}
	if got, err := start(t, restoreConfig(n, "n9")).Tree().ReadFile("last"); string(got) != "last push" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBackupErrors(t *testing.T) {
	c, _ := full(t, testConfig(t, t.TempDir()))
	for _, opt := range []BackupOptions{{}, {Passphrase: "short"}, {Passphrase: "both of the two", Recipients: "age1"},
		{Recipients: "ssh-ed25519 AAAA"}} {
		var buf bytes.Buffer
		if _, err := c.Backup(context.Background(), &buf, opt); err == nil || buf.Len() > 0 {
			t.Errorf("%+v: %v, %d bytes", opt, err, buf.Len())
		}
	}
	if _, err := c.Backup(context.Background(), writerFunc(func([]byte) (int, error) { return 0, syscall.ENOSPC }),
		pass); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	_, err := c.Backup(ctx, writerFunc(func(p []byte) (int, error) {
		if n++; n > 6 {
			cancel()
		}
		return len(p), nil
	}), pass)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if c.blobs.Held("sha256:" + strings.Repeat("0", 64)) {
		t.Error("blobs are held after the end")
	}
}

func TestBackupForRecipients(t *testing.T) {
	c, sealed := full(t, testConfig(t, t.TempDir()))
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	other, _ := age.GenerateX25519Identity()
	data, _ := backup(t, c, BackupOptions{Recipients: "# the safe\n" + other.Recipient().String() + "\n" +
		id.Recipient().String() + "\n"})
	cfg := testConfig(t, t.TempDir())
	if _, err := Restore(context.Background(), cfg, bytes.NewReader(data),
		RestoreOptions{Identities: id.String()}); err != nil {
		t.Fatal(err)
	}
	if plain, err := start(t, cfg).Unseal(sealed); string(plain) != "secret" || err != nil {
		t.Errorf("%q, %v", plain, err)
	}
}

// small is a backup that is quick to restore.
func small(t testing.TB) []byte {
	c := start(t, powerConfig(blobtest.New(1)))
	d := push(t, c.Tree(), []byte("blob"))
	long := strings.Repeat("x", 600)
	push(t, c.Tree(), []byte(long))
	update(t, c.Tree(), func(b Batch) { b.Link("a", d) })
	data, _ := backup(t, c, pass)
	return data
}

// initialised reports which of a data directory would count.
func initialised(t testing.TB, f *blobtest.FS) {
	t.Helper()
	for _, name := range f.Files() {
		if filepath.Base(name) != "lock" {
			t.Errorf("%s was left", name)
		}
	}
	if _, err := Open(powerConfig(f)); err == nil || !strings.Contains(err.Error(), "not initialised") {
		t.Errorf("Open: %v", err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	data := small(t)
	id, _ := age.GenerateX25519Identity()
	for what, test := range map[string]struct {
		data []byte
		opt  RestoreOptions
		want string
	}{
		"wrong passphrase": {data, RestoreOptions{Passphrase: "wrong"},
			"the passphrase is not the one that the backup was made with"},
		"wrong kind":  {data, RestoreOptions{Identities: id.String()}, "made with a passphrase, not for recipients"},
		"neither":     {data, RestoreOptions{}, "give either the passphrase or the identity"},
		"no identity": {data, RestoreOptions{Identities: "age1xyz"}, "AGE-SECRET-KEY-1"},
		"empty":       {nil, RestoreOptions{Passphrase: pass.Passphrase}, "cut short"},
		"something else": {bytes.Repeat([]byte("junk"), 1000), RestoreOptions{Passphrase: pass.Passphrase},
			"not written by casemate backup"},
		"newer": {tarOf(t, "manifest.json", `{"casemate_backup":2,"new":"things"}`),
			RestoreOptions{Passphrase: pass.Passphrase}, "newer casemate (version 2, this one reads up to 1): " +
				"restore it with that version"},
		"no manifest": {tarOf(t, "manifest.json", `{}`), RestoreOptions{Passphrase: pass.Passphrase},
			"manifest is damaged"},
		"other tar": {tarOf(t, "etc/passwd", `{}`), RestoreOptions{Passphrase: pass.Passphrase},
			"not written by casemate backup"},
		"more behind": {append(bytes.Clone(data), 0), RestoreOptions{Passphrase: pass.Passphrase},
			"data after its end"},
	} {
		t.Run(what, func(t *testing.T) {
			f := blobtest.New(1)
			_, err := Restore(context.Background(), powerConfig(f), bytes.NewReader(test.data), test.opt)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			initialised(t, f)
		})
	}
	// Where something is already, nothing is changed.
	cfg := testConfig(t, t.TempDir())
	start(t, cfg)
	if _, err := restoreWith(cfg, data); err == nil || !strings.Contains(err.Error(), "already initialised") {
		t.Errorf("into an initialised directory: %v", err)
	}
	foreign := testConfig(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(foreign.Dir, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restoreWith(foreign, data); err == nil ||
		!strings.Contains(err.Error(), `not empty (it has "precious")`) || len(files(t, foreign.Dir)) != 1 {
		t.Errorf("into a foreign directory: %v", err)
	}
	// An error of the source is no damage.
	_, err := Restore(context.Background(), testConfig(t, t.TempDir()),
		io.MultiReader(bytes.NewReader(data[:3000]), failing{}), RestoreOptions{Passphrase: pass.Passphrase})
	if !errors.Is(err, syscall.EIO) || strings.Contains(err.Error(), "take another") {
		t.Errorf("a source that fails: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, syscall.EIO }

func tarOf(t testing.TB, name, text string) []byte {
	var buf bytes.Buffer
	b := tarWriter{tar.NewWriter(&buf), time.Unix(0, 0)}
	if err := errors.Join(b.file(name, []byte(text)), b.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Every byte counts: each one flipped, and the file cut at each place, is refused, and nothing looks initialised.
func TestRestoreFindsEveryByte(t *testing.T) {
	t.Parallel()
	data := small(t)
	step := 5 // no part of a block's length, so that all fields of the headers have their turn
	if *seeds > 100 {
		step = 1
	}
	refused := func(what string, data []byte) {
		t.Helper()
		f := blobtest.New(1)
		_, err := restoreWith(powerConfig(f), data)
		var bad *archive.Error
		if !errors.As(err, &bad) && !errors.Is(err, archive.ErrWrongKey) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("%s: %v", what, err)
		}
		for _, name := range f.Files() {
			if filepath.Base(name) != "lock" {
				t.Fatalf("%s: %s was left", what, name)
			}
		}
	}
	for i := 0; i < len(data); i += step {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		refused(fmt.Sprintf("byte %d flipped", i), bad)
	}
	for i := 0; i < len(data); i += 128 {
		refused(fmt.Sprintf("cut at %d", i), data[:i])
	}
	refused("the last byte cut", data[:len(data)-1])
	if _, err := restoreWith(powerConfig(blobtest.New(1)), data); err != nil {
		t.Fatal(err)
	}
}

// After a power cut at any point of a restore, either nothing or everything is there, and the next attempt succeeds.
func TestPowerCutInRestore(t *testing.T) {
	t.Parallel()
	data := small(t)
	for n := 0; ; n++ {
		f := blobtest.New(uint64(n))
		f.CutAfter(n)
		_, err := restoreWith(powerConfig(f), data)
		done := !f.Off()
		if done && err != nil {
			t.Fatal(err)
		}
		f = f.Reboot()
		if _, err := restoreWith(powerConfig(f), data); err != nil &&
			!strings.Contains(err.Error(), "already initialised") {
			t.Fatalf("cut after %d, again: %v", n, err)
		}
		c, err := Open(powerConfig(f))
		if err != nil {
			t.Fatalf("cut after %d: %v", n, err)
		}
		if got, err := c.Tree().ReadFile("a"); string(got) != "blob" || err != nil {
			t.Fatalf("cut after %d: %q, %v", n, got, err)
		}
		if s, err := c.Scrub(context.Background()); err != nil || s.Faults != 0 || s.Blobs != 2 {
			t.Fatalf("cut after %d: %+v, %v", n, s, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if done {
			return
		}
	}
}

// A disk that fails once, whatever it was asked to do and whether it did it or not, leaves nothing that looks
// initialised and is not; the next try succeeds.
func TestRestoreOnAFailingDisk(t *testing.T) {
	t.Parallel()
	data := small(t)
	for n := 0; ; n++ {
		f, count := blobtest.New(1), 0
		f.Fault(func(op, name string) (error, bool) {
			count++
			return map[bool]error{true: syscall.EIO}[count == n+1], n%2 == 0
		})
		_, err := restoreWith(powerConfig(f), data)
		f.Fault(nil)
		if count <= n {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if err != nil {
			if _, err := restoreWith(powerConfig(f), data); err != nil &&
				!strings.Contains(err.Error(), "already initialised") {
				t.Fatalf("failure %d, again: %v", n, err)
			}
		}
		c, err := Open(powerConfig(f))
		if err != nil {
			t.Fatalf("failure %d: %v", n, err)
		}
		if s, err := c.Scrub(context.Background()); err != nil || s.Faults != 0 || s.Blobs != 2 {
			t.Fatalf("failure %d: %+v, %v", n, s, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// entry is one of a backup's.
type entry struct {
	name string
	data []byte
}

func entries(t testing.TB, data []byte) (list []entry) {
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, entry{h.Name, body})
	}
}

// tarWriter writes entries as a backup has them.
type tarWriter struct {
	*tar.Writer
	created time.Time
}

func (w tarWriter) file(name string, data []byte) error {
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o600, ModTime: w.created}
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// ending is the last entry of a backup.
type ending struct {
	Blobs   int    `json:"blobs"`
	Bytes   int64  `json:"bytes"`
	Damaged int    `json:"damaged"`
	Missing int    `json:"missing"`
	Sum     string `json:"sha256"`
	MAC     string `json:"mac"`
}

func (e ending) bytes(sum, key []byte) ([]byte, error) {
	own, err := hkdf.Key(sha256.New, key, nil, "casemate backup 1", sha256.Size)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, own)
	mac.Write(sum)
	e.Sum, e.MAC = hex.EncodeToString(sum), hex.EncodeToString(mac.Sum(nil))
	data, err := json.Marshal(e)
	return append(data, '\n'), err
}

// unwrapped is the sealing key of a backup that was made with pass.
func unwrapped(wrapped []byte) ([]byte, error) {
	id, err := age.NewScryptIdentity(pass.Passphrase)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(wrapped), id)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// rebuild is a tar of the entries, in which the last one is right about the sum.
func rebuild(t testing.TB, list []entry, created time.Time, key []byte) []byte {
	var buf bytes.Buffer
	b := tarWriter{tar.NewWriter(&buf), created}
	for _, e := range list {
		if e.name == "end.json" {
			var end ending
			if err := json.Unmarshal(e.data, &end); err == nil {
				b.Flush()
				sum := sha256.Sum256(buf.Bytes())
				e.data, _ = end.bytes(sum[:], key)
			}
		}
		if b.file(e.name, e.data) != nil {
			return nil // a name that no tar takes
		}
	}
	b.Close()
	return buf.Bytes()
}

// Restore accepts any input from an owner of the key and ends, with an error or with a node that opens.
func FuzzRestore(f *testing.F) {
	data := small(f)
	list := entries(f, data)
	key, err := unwrapped(list[1].data)
	if err != nil {
		f.Fatal(err)
	}
	var m struct{ Created time.Time }
	if err := json.Unmarshal(list[0].data, &m); err != nil {
		f.Fatal(err)
	}
	if !bytes.Equal(rebuild(f, list, m.Created, key), data) {
		f.Fatal("not the same backup")
	}
	for i, e := range list {
		for op := range uint8(4) {
			f.Add(uint8(i), op, e.data)
		}
	}
	f.Add(uint8(3), uint8(3), []byte("missing/"+list[3].name[len("blobs/"):]))
	f.Add(uint8(0), uint8(0), []byte(`{"casemate_backup":1,"state_size":9223372036854775807}`))
	f.Fuzz(func(t *testing.T, which, op uint8, data []byte) {
		own := slices.Clone(list)
		i := int(which) % len(own)
		switch op % 4 {
		case 0:
			if i == 1 {
				return // age's own matter, and slow where scrypt is asked to be
			}
			own[i].data = data
		case 1:
			own = slices.Delete(own, i, i+1)
		case 2:
			own = slices.Insert(own, i, entry{own[i].name, data})
		case 3:
			own[i].name = string(data)
		}
		disk := blobtest.New(1)
		cfg := powerConfig(disk)
		cfg.Log = slog.New(slog.DiscardHandler)
		if _, err := restoreWith(cfg, rebuild(t, own, m.Created, key)); err != nil {
			if _, err := disk.Stat(filepath.Join(cfg.Dir, "format")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it looks initialised: %v", err)
			}
			return
		}
		c, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
}
