package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// device is a login at the OpenID provider that was begun.
type device struct {
	URL     string    `json:"url"`
	Code    string    `json:"code"`
	Direct  string    `json:"direct"`
	Expires time.Time `json:"expires"`
	Handle  string    `json:"handle"`
}

// loginStep is the answer to the question whether it is finished.
type loginStep struct {
	Pending bool    `json:"pending"`
	Login   *newKey `json:"login"`
}

// loginOIDC logs in at the OpenID provider (RFC 8628): the user opens a page there in any browser, and the daemon is
// asked until that is done. Each question takes some time, so that none need be waited for here.
func (c *client) loginOIDC(cmd *cobra.Command) (*newKey, error) {
	c.authorize("") // a stored login that has ended
	var d device
	if err := c.call(cmd.Context(), "POST", "login/oidc", nil, nil, &d); err != nil {
		return nil, err
	}
	w := cmd.ErrOrStderr()
	fmt.Fprintf(w, "Open %s in a browser and enter the code %s\n", printable(d.URL), printable(d.Code))
	if d.Direct != "" {
		fmt.Fprintf(w, "or open %s\n", printable(d.Direct))
	}
	for {
		var step loginStep
		in := map[string]string{"handle": d.Handle}
		if err := c.call(cmd.Context(), "POST", "login/oidc/finish", nil, in, &step); err != nil {
			return nil, err
		}
		switch {
		case step.Login != nil:
			return step.Login, nil
		case !step.Pending:
			return nil, errors.New("the daemon says neither that the login is finished nor that it is not")
		}
	}
}
