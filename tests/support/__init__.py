"""What tests of every kind share: starting beds, and running Ansible as a user would."""
