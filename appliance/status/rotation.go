package status

import (
	"fmt"
	"time"
)

// rotation says in an overlap of two roots how far it is; "" outside of one.
func (p *Page) rotation() string {
	since, overlap := p.CA.Rotation()
	if !overlap {
		return ""
	}
	progress, err := p.Rotation.Progress()
	if err != nil {
		return fmt.Sprintf("two roots are handed out since %s; %v", since.Format(time.RFC3339), err)
	}
	return progress.Sentence(since, time.Now(), p.Current.State().Settings.Overlap)
}
