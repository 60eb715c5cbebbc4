package blobtest

import "slices"

const pageSize = 4 << 10

// page is a part of a file's bytes. One that several contents share is copied before it is changed.
type page struct {
	shared bool
	data   [pageSize]byte
}

// content is what a file holds, in pages that versions of it share: a test's disks write much and keep little. A nil
// page is all zeros, so a log's segment that is made large and written to at its start costs what is written. Bytes
// beyond size are zeros.
type content struct {
	size  int64
	pages []*page
}

// clone returns a content that holds the same bytes.
func (c *content) clone() content {
	for _, p := range c.pages {
		if p != nil && !p.shared { // one that another disk has, too, is not written to
			p.shared = true
		}
	}
	return content{c.size, slices.Clone(c.pages)}
}

// own returns a page that may be changed.
func (c *content) own(i int64) *page {
	switch p := c.pages[i]; {
	case p == nil:
		c.pages[i] = &page{}
	case p.shared:
		c.pages[i] = &page{data: p.data}
	}
	return c.pages[i]
}

// resize cuts the content, or lengthens it with zeros.
func (c *content) resize(size int64) {
	if size < c.size && size%pageSize != 0 && c.pages[size/pageSize] != nil {
		clear(c.own(size / pageSize).data[size%pageSize:])
	}
	n := int((size + pageSize - 1) / pageSize)
	if n < len(c.pages) {
		clear(c.pages[n:])
		c.pages = c.pages[:n]
	} else {
		c.pages = append(c.pages, make([]*page, n-len(c.pages))...)
	}
	c.size = size
}

func (c *content) writeAt(data []byte, off int64) {
	if end := off + int64(len(data)); end > c.size {
		c.resize(end)
	}
	for len(data) > 0 {
		n := copy(c.own(off / pageSize).data[off%pageSize:], data)
		data, off = data[n:], off+int64(n)
	}
}

// readAt fills p from off on, as far as there are bytes.
func (c *content) readAt(p []byte, off int64) int {
	p = p[:max(0, min(int64(len(p)), c.size-off))]
	for at := 0; at < len(p); {
		to := p[at:min(len(p), at+int(pageSize-off%pageSize))]
		if from := c.pages[off/pageSize]; from != nil {
			copy(to, from.data[off%pageSize:])
		} else {
			clear(to)
		}
		at, off = at+len(to), off+int64(len(to))
	}
	return len(p)
}
