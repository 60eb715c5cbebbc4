package appliance

import (
	"context"
	"errors"
	"net/http"
)

func (a *Appliance) getImages(r *http.Request) (any, error) {
	return nil, errors.New("images cannot be listed yet")
}

func (a *Appliance) deleteImage(ctx context.Context, ref string) error {
	return errors.New("images cannot be deleted yet")
}
