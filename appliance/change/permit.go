package change

import (
	"fmt"
	"io/fs"

	"casemate/appliance/origin"
)

// NotPermitted returns why names are not enabled, with the command that changes it.
func (c *Changes) NotPermitted(names ...string) string {
	flags := c.CA.Widening(names...).Flags()
	if flags == "" {
		return fmt.Sprintf("the root certificate permits it now: casemate origin add %s", names[0])
	}
	return fmt.Sprintf("%s: casemate ca rotate %s creates a root that permits it, then casemate origin add %s",
		origin.NotPermitted, flags, names[0])
}

// unpermitted is the error for an origin that cannot be added because of the state of the CA (409), neither an
// invalid request nor an internal error.
type unpermitted string

func (u unpermitted) Error() string        { return string(u) }
func (u unpermitted) Is(target error) bool { return target == fs.ErrExist }
