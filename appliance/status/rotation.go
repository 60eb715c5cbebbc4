package status

import (
	"fmt"
	"time"
)

// rotation describes the progress of an overlap of two roots; "" outside of one.
func (p *Page) rotation() string {
	since, overlap := p.CA.Rotation()
	if !overlap {
		return ""
	}
	progress, err := p.Rotation.Progress()
	if err != nil {
		return fmt.Sprintf("two roots are in use since %s; %v", since.Format(time.RFC3339), err)
	}
	return progress.Sentence(since, time.Now(), p.Current.State().Settings.Overlap)
}
