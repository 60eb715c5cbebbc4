package blob

import (
	"hash/fnv"
	"io/fs"
	"strconv"
	"time"
)

// A blob's file carries a seal: its modification time says which digest and size it was last hashed to have, and about
// when. Whoever writes to the file, cuts it, or puts another one in its place breaks the seal without knowing of it,
// and no list has to be kept of what was verified.
//
// What changes bytes behind the file system's back (rot) does not break it. That is what Verify is for, which whoever
// owns the Dir calls for every blob now and then.

// sealStep is how far apart the times are that seal one blob, in seconds. So a seal tells its time to a little more
// than two hours.
const sealStep = 1 << 13

// sealAt returns the newest time up to now that seals a blob. It is whole seconds, and even: file systems and tools
// that keep times coarsely keep it.
func sealAt(digest string, size int64, now time.Time) time.Time {
	sec := now.Unix()
	at := sec - sec%sealStep + sealOffset(digest, size)
	if at > sec && at > sealStep { // where the clock says 1970, as without a battery, it is one to come
		at -= sealStep
	}
	return time.Unix(at, 0)
}

// broken is a time that seals nothing. It is given to a sealed file whose bytes were found to be wrong, so that also
// the next process looks at them before it hands them out.
var broken = time.Unix(1, 0)

func sealed(digest string, i fs.FileInfo) bool {
	t := i.ModTime()
	return t.Nanosecond() == 0 && t.Unix() > 0 && t.Unix()%sealStep == sealOffset(digest, i.Size())
}

func sealOffset(digest string, size int64) int64 {
	h := fnv.New64a()
	h.Write([]byte(digest))
	h.Write(strconv.AppendInt(nil, size, 10))
	return int64(h.Sum64()%(sealStep/2)) * 2
}
