package blob

import (
	"hash/fnv"
	"io/fs"
	"strconv"
	"time"
)

// A blob's file carries a seal: its modification time encodes which digest and size it was last hashed to have, and
// roughly when. Writing to the file, truncating or replacing it breaks the seal, and no list of verified files is
// needed.
//
// Bytes that change below the file system (rot) do not break it. For these the owner of the Dir calls Verify for every
// blob periodically.

// sealStep is the distance, in seconds, between the times that seal one blob. So a seal gives its time to a little more
// than two hours.
const sealStep = 1 << 13

// sealAt returns the newest time up to now that seals a blob. It is an even number of seconds, which file systems and
// tools with coarse times preserve.
func sealAt(digest string, size int64, now time.Time) time.Time {
	sec := now.Unix()
	at := sec - sec%sealStep + sealOffset(digest, size)
	if at > sec && at > sealStep { // a clock at 1970, as without a battery, gives a time in the future
		at -= sealStep
	}
	return time.Unix(at, 0)
}

// broken is a time that seals nothing. A sealed file whose bytes were found to be wrong gets it, so that the next
// process checks the file too before it serves it.
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
