package change

import (
	"fmt"
	"io/fs"

	"casemate/appliance/origin"
)

// NotPermitted is why names are not enabled, with the command that changes it.
func (c *Changes) NotPermitted(names ...string) string {
	flags := c.CA.Widening(names...).Flags()
	if flags == "" {
		return fmt.Sprintf("the root certificate permits it by now: casemate origin add %s", names[0])
	}
	return fmt.Sprintf("%s: casemate ca rotate %s makes one that permits it, then casemate origin add %s",
		origin.NotPermitted, flags, names[0])
}

// unpermitted is an origin that cannot be added. It is neither the request's fault nor ours (409): the state of the CA
// is against it.
type unpermitted string

func (u unpermitted) Error() string        { return string(u) }
func (u unpermitted) Is(target error) bool { return target == fs.ErrExist }
