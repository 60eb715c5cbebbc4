package tree

import "context"

// Updater is the part of a tree that CommitNamed needs.
type Updater interface {
	Update(ctx context.Context, fn func(Batch) error) error
}

// Writable is the part of a tree that WriteFile needs.
type Writable interface {
	Updater
	CreateBlob(id string) (BlobWriter, error)
}

// CommitNamed commits w, a writer of t, and the names that refer to its blob: at one log entry if w is a
// NamedCommitter. If it is none, a crash between the two steps leaves an unreferenced blob, which is collected when its
// pin ends, and after an error w may be gone. digest, names and the result are those of NamedCommitter.
func CommitNamed(
	ctx context.Context, t Updater, w BlobWriter, digest string, names func(Batch, string) error,
) (string, error) {
	if n, ok := w.(NamedCommitter); ok {
		return n.CommitNamed(ctx, digest, names)
	}
	got, err := w.Commit(ctx, digest)
	if err != nil {
		return "", err
	}
	return got, t.Update(ctx, func(b Batch) error { return names(b, got) })
}

// WriteFile makes name a file with these bytes, whatever their number: a record of the log is limited, a blob is not.
func WriteFile(ctx context.Context, t Writable, name string, data []byte) error {
	w, err := t.CreateBlob("")
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return err
	}
	_, err = CommitNamed(ctx, t, w, "", func(b Batch, digest string) error { b.Link(name, digest); return nil })
	return err
}
