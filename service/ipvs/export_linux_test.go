package ipvs

import "context"

// Refresh is what Watch does when devices have other addresses.
func (d *Dataplane) Refresh(ctx context.Context) (failed bool, err error) { return d.refresh(ctx) }

// EndDrain is what Watch does from time to time.
func (d *Dataplane) EndDrain(ctx context.Context) error {
	_, err := d.endDrain(ctx)
	return err
}
